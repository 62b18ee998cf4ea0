"""The GPU inventory through the real NVML binding, on a driver library made up for the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import build_driver

from mlflow_lmms.errors import ConfigurationError
from worker.gpu_inventory import Gpu, GpuProblem, Inventory, NvmlProbe, Trouble, choose_gpus

ASK = """
import dataclasses, json
from worker.gpu_inventory import NvmlProbe
print(json.dumps(dataclasses.asdict(NvmlProbe().inventory())))
"""
TWO = Inventory(
    (Gpu(0, "GPU-aaaa1111", "A", 1), Gpu(1, "GPU-aaaa2222", "A", 1)), (Trouble(GpuProblem.LOST, "GPU 2 is lost"),)
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("nvml"))


def ask(library: Path | None, **environ: str) -> dict[str, Any]:
    search = {"LD_LIBRARY_PATH": str(library)} if library is not None else {}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK],
        env={**os.environ, **search, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_gpu_is_listed_with_uuid_name_and_memory(driver: Path) -> None:
    answer = ask(driver)
    assert [gpu["uuid"][:12] for gpu in answer["gpus"]] == ["GPU-00000001", "GPU-00000002"]
    assert {(gpu["name"], gpu["memory"]) for gpu in answer["gpus"]} == {("Made-up 80GB", 80 << 30)}
    assert answer["troubles"] == []


def test_a_lost_gpu_does_not_hide_the_others(driver: Path) -> None:
    answer = ask(driver, FAKE_COUNT="3", FAKE_LOST="1")
    assert [gpu["index"] for gpu in answer["gpus"]] == [0, 2]
    assert answer["troubles"] == [{"problem": "lost", "message": "GPU 1 is left out: GPU is lost"}]


def test_a_gpu_without_memory_figures_can_be_used(driver: Path) -> None:
    answer = ask(driver, FAKE_MUTE="0")
    assert [gpu["memory"] for gpu in answer["gpus"]] == [0, 80 << 30]
    assert answer["troubles"][0]["problem"] == "unsupported"


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"FAKE_INIT": "9"}, "no_driver"),
        ({"FAKE_INIT": "4"}, "no_permission"),
        ({"FAKE_INIT": "999"}, "other"),
        ({"FAKE_COUNT": "-3"}, "unsupported"),
    ],
)
def test_an_error_of_the_driver_is_classified(driver: Path, environ: dict[str, str], problem: str) -> None:
    answer = ask(driver, **environ)
    assert answer["gpus"] == []
    assert [trouble["problem"] for trouble in answer["troubles"]] == [problem]


def test_a_library_without_the_functions_is_no_crash(driver: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.c"
    empty.write_text("int nvmlInitWithFlags(unsigned flags) { return 0; } int nvmlShutdown(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "libnvidia-ml.so.1", empty], check=True)
    assert [trouble["problem"] for trouble in ask(tmp_path)["troubles"]] == ["unsupported"]


def test_without_the_binding_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (trouble,) = NvmlProbe().inventory().troubles
    assert trouble.problem is GpuProblem.NO_BINDING
    assert "pip install" in trouble.message


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        ("all", [0, 1]),
        ("none", []),
        ("", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-aaaa2", [1]),
        ("gpu-AAAA1111,1,0", [0, 1]),
    ],
)
def test_gpus_are_chosen_by_index_or_uuid(wanted: str, indices: list[int]) -> None:
    assert [gpu.index for gpu in choose_gpus(wanted, TWO)] == indices


@pytest.mark.parametrize("wanted", ["7", "GPU-bbbb", "GPU-aaaa", "two"])
def test_a_gpu_that_is_not_there_is_named_with_what_is(wanted: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{wanted}.*0 \(GPU-aaaa1111, A\).*GPU 2 is lost"):
        choose_gpus(wanted, TWO)
