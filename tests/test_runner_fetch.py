"""The fetch of repositories and data sets, with the Hub's real libraries against a Hub of our own."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import FakeHub, Repository, serve

from mlflow_lmms.fetch_items import FetchItem
from worker.runner.fetch_failure import explain
from worker.runner.repository_fetch import unwanted_files

REPOSITORY = Path(__file__).parents[1]
DEADLINE_S = 120
WEIGHTS = {f"model-0000{number}-of-00003.safetensors": os.urandom(300_000) for number in (1, 2, 3)}


def parquet(rows: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"question": [f"{row} + 1" for row in range(rows)], "answer": list(range(rows))}), buffer)
    return buffer.getvalue()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    model = Repository({"config.json": b"{}", **WEIGHTS, "pytorch_model.bin": b"twice", "original/w.pth": b"again"})
    data = Repository({"README.md": b"# sums\n", "data/test-00000-of-00001.parquet": parquet(50)})
    with serve({"lab/small": model}, {"lab/sums": data}) as hub:
        yield hub


MODEL = FetchItem(kind="model", name="lab/small")
DATA = FetchItem(kind="dataset", name="lab/sums")


class Fetch:
    """One process that fetches."""

    def __init__(self, hub: FakeHub, home: Path, *items: FetchItem, reserve: int = 0, **environ: str) -> None:
        # Whoever imports torch here fails.
        (home / "path" / "torch").mkdir(parents=True, exist_ok=True)
        (home / "path" / "torch" / "__init__.py").write_text("raise AssertionError('torch was imported')\n")
        path = os.pathsep.join([str(REPOSITORY), str(home / "path")])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.runner.fetch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **hub.environ(home), "PYTHONPATH": path, "LMMS_EVENT_FD": "", **environ},
        )
        told = {"items": [{**item.model_dump(mode="json"), "key": item.key} for item in items], "reserve": reserve}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told).encode())
        self.process.stdin.close()
        self.process.stdin = None

    def end(self) -> list[dict[str, Any]]:
        output, errors = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, errors.decode()
        return [json.loads(line) for line in output.splitlines()]


def last(events: list[dict[str, Any]], item: FetchItem) -> dict[str, Any]:
    return [event for event in events if event["item"] == item.key][-1]


def offline(code: str, home: Path, environ: Mapping[str, str]) -> str:
    """What a program prints that may not use the network."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode().strip()


def test_a_model_and_a_data_set_are_there_offline_afterwards(hub: FakeHub, tmp_path: Path) -> None:
    events = Fetch(hub, tmp_path, MODEL, DATA).end()
    assert [last(events, item)["state"] for item in (MODEL, DATA)] == ["done", "done"], events
    moved = [event for event in events if event["item"] == MODEL.key and event["total"]]
    assert moved[-1]["done"] == moved[-1]["total"] == 900_002
    assert set(hub.downloads) >= {"config.json", *WEIGHTS}
    assert not hub.downloads.keys() & {"pytorch_model.bin", "original/w.pth"}
    load = "import datasets; print(datasets.load_dataset('lab/sums')['test'].num_rows)"
    assert offline(load, tmp_path, hub.environ(tmp_path)) == "50"
    load = "from huggingface_hub import hf_hub_download as d; print(len(open(d('lab/small', 'config.json')).read()))"
    assert offline(load, tmp_path, hub.environ(tmp_path)) == "2"


def test_what_is_there_is_not_downloaded_again(hub: FakeHub, tmp_path: Path) -> None:
    Fetch(hub, tmp_path, MODEL, DATA).end()
    before = hub.downloads.copy()
    events = Fetch(hub, tmp_path, MODEL, DATA).end()
    assert [last(events, item)["state"] for item in (MODEL, DATA)] == ["done", "done"]
    weights = [name for name in hub.downloads if name.endswith((".safetensors", ".parquet"))]
    assert weights and all(hub.downloads[name] == before[name] == 1 for name in weights)


def test_a_fetch_that_was_killed_goes_on_with_the_missing_files(hub: FakeHub, tmp_path: Path) -> None:
    hub.stuck = {"model-00003-of-00003.safetensors"}
    first = Fetch(hub, tmp_path, MODEL)
    assert hub.reached.wait(DEADLINE_S)
    blobs = tmp_path / "hub" / "models--lab--small" / "blobs"
    wait_until(lambda: sum(file.suffix != ".incomplete" for file in blobs.iterdir()) == 3, "two of the weights")
    first.process.send_signal(signal.SIGKILL)
    first.process.communicate()
    assert list(blobs.glob("*.incomplete")), "nothing was half downloaded"
    hub.stuck = set()
    hub.go_on.set()
    before = hub.downloads.copy()
    events = Fetch(hub, tmp_path, MODEL).end()
    assert last(events, MODEL)["state"] == "done"
    # Told from the start as what it is: two files of three are there.
    assert next(event["done"] for event in events if event["total"]) == 600_002
    assert [hub.downloads[name] - before[name] for name in WEIGHTS] == [0, 0, 1]
    assert not list(blobs.glob("*.incomplete")), "the half of the killed fetch was left"


def test_two_fetches_at_once_are_one_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.stuck = {"model-00002-of-00003.safetensors"}
    first = Fetch(hub, tmp_path, MODEL)
    assert hub.reached.wait(DEADLINE_S)
    second = Fetch(hub, tmp_path, MODEL)
    assert second.process.stdout is not None
    seen = []
    for line in second.process.stdout:
        seen.append(json.loads(line)["state"])
        if seen[-1] == "waiting":
            hub.stuck = set()
            hub.go_on.set()
            break
    assert "waiting" in seen, seen
    assert last(first.end(), MODEL)["state"] == last(second.end(), MODEL)["state"] == "done"
    assert [hub.downloads[name] for name in WEIGHTS] == [1, 1, 1]


def test_a_disk_that_is_too_small_is_told_before_anything_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    events = Fetch(hub, tmp_path, MODEL, DATA, reserve=10**18).end()
    for item in (MODEL, DATA):
        told = last(events, item)
        assert told["state"] == "failed"
        assert f"{item.name} needs" in told["message"] and "MLFLOW_LMMS_DISK_RESERVE_GB" in told["message"]
    assert not [name for name in hub.downloads if name.endswith((".safetensors", ".parquet"))]


@pytest.mark.parametrize(
    ("repository", "told"),
    [
        (None, "the Hub has no lab/small for us"),
        (Repository({"config.json": b"{}"}, refusal=(403, "GatedRepo")), "lab/small is gated"),
        (
            Repository({"config.json": b"{}"}, refusal=(401, "RepoNotFound")),
            "let the run ask for the secret HF_TOKEN",
        ),
    ],
)
def test_a_repository_that_is_not_for_us_is_told_in_words(
    hub: FakeHub, tmp_path: Path, repository: Repository | None, told: str
) -> None:
    hub.models.clear()
    hub.datasets.clear()
    if repository is not None:
        hub.models["lab/small"] = hub.datasets["lab/small"] = repository
    data = FetchItem(kind="dataset", name="lab/small")
    events = Fetch(hub, tmp_path, MODEL, data).end()
    for item in (MODEL, data):
        assert last(events, item)["state"] == "failed"
    assert told in last(events, MODEL)["message"]
    assert "lab/small" in last(events, data)["message"] and "HF_TOKEN" in last(events, data)["message"]


def test_a_gated_repository_is_fetched_with_the_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.models["lab/small"].refusal, hub.models["lab/small"].token = (403, "GatedRepo"), "hf_ours"
    assert last(Fetch(hub, tmp_path, MODEL, HF_TOKEN="hf_ours").end(), MODEL)["state"] == "done"


def test_a_hub_that_is_away_is_told(hub: FakeHub, tmp_path: Path) -> None:
    events = Fetch(hub, tmp_path, MODEL, HF_ENDPOINT="http://127.0.0.1:9").end()
    assert "the Hub cannot be reached for lab/small" in last(events, MODEL)["message"]


def test_videos_come_as_they_are_unless_they_are_unpacked_already(hub: FakeHub, tmp_path: Path) -> None:
    hub.datasets["lab/films"] = Repository({"films.zip": b"z" * 1000})
    item = FetchItem(kind="dataset", name="lab/films", whole=True, folder="films")
    assert last(Fetch(hub, tmp_path, item).end(), item)["state"] == "done"
    assert hub.downloads["films.zip"] == 1
    (tmp_path / "films").mkdir()
    hub.requests.clear()
    assert last(Fetch(hub, tmp_path, item).end(), item)["state"] == "done"
    assert hub.requests == []


def test_weights_are_fetched_in_one_format() -> None:
    files = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "mm_projector.bin",
        "onnx/model.onnx",
        "a/b.bin",
    ]
    assert unwanted_files(files) == ["pytorch_model.bin", "onnx/model.onnx"]
    assert unwanted_files(["config.json", "pytorch_model.bin", "original/consolidated.00.pth"]) == []
    assert unwanted_files(["consolidated.safetensors", "params.json"]) == []
    assert unwanted_files(["unet/d.safetensors", "unet/d.onnx", "vae/d.onnx"]) == ["unet/d.onnx"]


def wait_until(found: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not found():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def test_failures_are_explained_whatever_library_raised_them() -> None:
    class ConnectTimeout(Exception):
        pass

    class LocalTokenNotFoundError(OSError):
        pass

    full = RuntimeError("while writing")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "the disk became full" in explain(full, "lab/small", token=False)
    assert "the Hub cannot be reached" in explain(ConnectTimeout(), "lab/small", token=False)
    assert "secret HF_TOKEN" in explain(LocalTokenNotFoundError(), "lab/small", token=False)
    assert explain(ValueError("odd"), "lab/small", token=False) == "lab/small: ValueError: odd"
