"""The GPU inventory through the real NVML binding, on a driver library made up for the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import GIB, FakeDriver, uuid_of

from mlflow_lmms.errors import ConfigurationError
from worker.gpu_inventory import Gpu, GpuProblem, Inventory, Trouble, choose_gpus
from worker.nvml_probe import NvmlProbe

ASK = """
import dataclasses, json, sys
from worker.nvml_probe import NvmlProbe
probe = NvmlProbe()
for _ in sys.stdin:
    print(json.dumps(dataclasses.asdict(probe.inventory())), flush=True)
"""
TWO = Inventory(
    (Gpu(0, "GPU-aaaa1111", "A", 1), Gpu(1, "GPU-aaaa2222", "A", 1)), (Trouble(GpuProblem.LOST, "GPU 2 is lost"),)
)


class Asker:
    """A process that asks the made-up driver through the real binding, whenever it is told to."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", ASK],
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(10) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeDriver, Asker]]:
    driver = FakeDriver(tmp_path_factory.mktemp("nvml"))
    asker = Asker(driver.environ)
    yield driver, asker
    asker.close()


@pytest.fixture
def driver(built: tuple[FakeDriver, Asker]) -> Iterator[FakeDriver]:
    built[0].tell()
    yield built[0]
    built[0].tell()


@pytest.fixture
def asker(built: tuple[FakeDriver, Asker], driver: FakeDriver) -> Asker:
    return built[1]


def test_every_gpu_is_listed_with_all_that_the_driver_tells(driver: FakeDriver, asker: Asker) -> None:
    facts = {"0.used": 3 * GIB, "0.reserved": GIB, "0.utilisation": 97, "0.temperature": 71, "0.milliwatts": 412_500}
    driver.tell(facts, processes={0: {4711: 2 * GIB, 4712: GIB}})
    answer = asker.ask()
    first, second = answer["gpus"]
    assert answer["troubles"] == []
    assert (first["uuid"], first["name"], first["memory"]) == (uuid_of(0), "Made-up 80GB", 80 * GIB)
    assert first["used"] == 3 * GIB, "what the driver keeps for itself is nobody's use"
    assert (first["utilisation"], first["temperature"], first["power_w"]) == (97.0, 71.0, 412.5)
    assert first["processes"] == [{"pid": 4711, "memory": 2 * GIB}, {"pid": 4712, "memory": GIB}]
    assert (second["index"], second["uuid"], second["used"], second["processes"]) == (1, uuid_of(1), 0, [])
    assert all(gpu["usable"] and not gpu["is_slice"] and gpu["problem"] is None for gpu in answer["gpus"])


def test_a_lost_gpu_does_not_hide_the_others_and_comes_back(driver: FakeDriver, asker: Asker) -> None:
    driver.tell({"count": 3, "error.Handle.1": 15})
    answer = asker.ask()
    assert [gpu["index"] for gpu in answer["gpus"]] == [0, 2]
    assert answer["troubles"] == [{"problem": "lost", "message": "GPU 1 is left out: GPU is lost", "index": 1}]
    driver.tell({"count": 3})
    assert [gpu["index"] for gpu in asker.ask()["gpus"]] == [0, 1, 2]


def test_a_gpu_that_is_lost_between_two_questions_is_listed_as_not_usable(driver: FakeDriver, asker: Asker) -> None:
    driver.tell({"error.Memory.1": 15, "error.Power.1": 15})
    answer = asker.ask()
    assert [(gpu["usable"], gpu["problem"]) for gpu in answer["gpus"]] == [(True, None), (False, "lost")]
    assert [trouble["index"] for trouble in answer["troubles"]] == [1]


@pytest.mark.parametrize(("code", "problem"), [(3, "unsupported"), (13, "unsupported"), (4, "no_permission")])
def test_a_gpu_without_memory_figures_can_be_used(driver: FakeDriver, asker: Asker, code: int, problem: str) -> None:
    driver.tell({"error.Memory.0": code})
    answer = asker.ask()
    assert [gpu["memory"] for gpu in answer["gpus"]] == [0, 80 * GIB]
    assert [(gpu["usable"], gpu["used"]) for gpu in answer["gpus"]] == [(True, None), (True, 0)]
    assert [(trouble["problem"], trouble["index"]) for trouble in answer["troubles"]] == [(problem, 0)]


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("Utilization", ["utilisation"]),
        ("Temperature", ["temperature"]),
        ("Power", ["power_w"]),
        ("Processes", ["processes"]),
    ],
)
def test_one_refused_question_costs_one_answer(
    driver: FakeDriver, asker: Asker, call: str, fields: list[str]
) -> None:
    for code, problem in ((3, None), (4, "no_permission"), (999, "other")):
        driver.tell({f"error.{call}.1": code})
        first, second = asker.ask()["gpus"]
        told = {"utilisation", "temperature", "power_w", "processes", "used"}
        assert {name for name in told if second[name] is None} == set(fields)
        assert {name for name in told if first[name] is None} == set()
        assert (second["usable"], second["problem"]) == (True, problem)


def test_slices_are_devices_and_their_gpu_is_none(driver: FakeDriver, asker: Asker) -> None:
    driver.tell({"count": 3, "0.slices": 2, "2.slices": 0, "101.used": GIB}, processes={101: {4711: GIB}})
    answer = asker.ask()
    assert [gpu["uuid"] for gpu in answer["gpus"]] == [uuid_of(100), uuid_of(101), uuid_of(1)]
    first, second, whole = answer["gpus"]
    assert (first["is_slice"], first["parent"], first["index"], first["memory"]) == (True, uuid_of(0), 0, 10 * GIB)
    assert (second["used"], second["processes"]) == (GIB, [{"pid": 4711, "memory": GIB}])
    assert second["utilisation"] is None, "the driver has none of a slice"
    assert (whole["is_slice"], whole["parent"]) == (False, None)
    assert [(trouble["problem"], trouble["index"]) for trouble in answer["troubles"]] == [("split", 2)]


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"error.Init": 9}, "no_driver"),
        ({"error.Init": 18}, "no_driver"),
        ({"error.Init": 4}, "no_permission"),
        ({"error.Init": 999}, "other"),
        ({"error.Count": 3}, "unsupported"),
        ({"error.Count": 1}, "other"),
    ],
)
def test_an_error_of_the_driver_is_classified_and_passes(
    driver: FakeDriver, state: dict[str, int], problem: str
) -> None:
    driver.tell(state)
    asker = Asker(driver.environ)
    answer = asker.ask()
    assert answer["gpus"] == []
    assert [trouble["problem"] for trouble in answer["troubles"]] == [problem]
    driver.tell()
    assert len(asker.ask()["gpus"]) == 2
    asker.close()


def test_an_old_driver_tells_what_it_can(tmp_path: Path) -> None:
    driver = FakeDriver(tmp_path, "-DOLD")
    driver.tell({"0.used": GIB, "0.reserved": GIB}, processes={0: {4711: GIB}})
    asker = Asker(driver.environ)
    answer = asker.ask()
    asker.close()
    assert answer["troubles"] == []
    assert answer["gpus"][0]["processes"] == [{"pid": 4711, "memory": GIB}]
    assert answer["gpus"][0]["used"] == 2 * GIB, "it cannot tell apart what the driver keeps"


def test_a_library_without_the_functions_is_no_crash(tmp_path: Path) -> None:
    empty = tmp_path / "empty.c"
    empty.write_text("int nvmlInitWithFlags(unsigned flags) { return 0; } int nvmlShutdown(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "libnvidia-ml.so.1", empty], check=True)
    asker = Asker({"LD_LIBRARY_PATH": str(tmp_path)})
    assert [trouble["problem"] for trouble in asker.ask()["troubles"]] == ["unsupported"]
    asker.close()


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


def test_the_index_of_a_split_gpu_names_its_slices() -> None:
    slices = tuple(Gpu(0, f"MIG-{n}", "A 1g", 1, is_slice=True, parent="GPU-aaaa") for n in (1, 2))
    inventory = Inventory((*slices, Gpu(1, "GPU-bbbb", "A", 1)))
    assert choose_gpus("0", inventory) == slices
    assert choose_gpus("GPU-AAAA", inventory) == slices
    assert choose_gpus("mig-2,1", inventory) == (slices[1], inventory.gpus[2])
