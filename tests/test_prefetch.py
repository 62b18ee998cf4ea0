"""From submission to the plan: files are fetched before a run gets GPUs. Scheduler, queue and fetcher are real."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from fake_hub import FakeHub, Repository, serve
from fleet_boxes import announce

from mlflow_lmms.planner.fleet import Cause
from mlflow_lmms.queue_keys import (
    PLAN_STARTS_KEY,
    fetch_orders_key,
    fetch_states_key,
    fetcher_key,
    start_from_json,
)
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.services import Services
from mlflow_lmms.settings import Settings
from worker.fetcher_process import FetcherProcess

DEADLINE_S = 90
TASK, DATA = "chartqa_lite", "lmms-lab-encoder/LMMs-Eval-Lite"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"question": ["1 + 1"], "answer": ["2"]}), buffer)
    card = (
        "---\nconfigs:\n- config_name: chartqa\n  data_files:\n  - split: lite\n    path: chartqa/lite.parquet\n---\n"
    )
    data = Repository({"README.md": card.encode(), "chartqa/lite.parquet": buffer.getvalue()})
    model = Repository({"config.json": b"{}", "model.safetensors": os.urandom(400_000)})
    with serve({"lab/small": model}, {DATA: data}) as hub:
        yield hub


class Fleet:
    """One box with two GPUs, its fetcher, and the server."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services = services
        self.redis: redis.Redis = redis.Redis.from_url(services.settings.redis_address)
        settings = Settings(data_folder=folder / "box", redis_url=services.settings.redis_address, box="a")
        (settings.data_folder / "worker").mkdir(parents=True)
        self.fetcher = FetcherProcess(settings, "cache-1")
        announce(self.redis, "a", ["GPU-0", "GPU-1"], cache="cache-1")
        announce(self.redis, "without-fetcher", ["GPU-2", "GPU-3"])

    def submit(self, **fields: Any) -> str:
        asked: dict[str, Any] = {
            "adapter": "qwen2_5_vl",
            "model_args": {"pretrained": "lab/small"},
            "tasks": [TASK],
            "gpus": 1,
        }
        asked["secrets"] = ["HF_TOKEN"]  # the task says that its data set needs one
        return self.services.submission.submit(EvaluationRequest.parse({**asked, **fields})).run_id

    def wait(self, found: Callable[[], Any], what: str) -> Any:
        """Let the server and the box work until something is so."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self.services.scheduler.tick()
            if value := found():
                return value
            assert time.monotonic() < deadline, f"waited for {what}; {self.services.fleet.waits()}"
            self.fetcher.tend()
            time.sleep(0.1)

    def start(self, run_id: str) -> Any:
        """The planned start of a run's first part."""
        text: Any = self.redis.hget(PLAN_STARTS_KEY, f"{run_id}-0")
        return start_from_json(f"{run_id}-0", text.decode()) if text else None

    def reason(self, run_id: str) -> str:
        wait = self.services.fleet.waits().get(f"{run_id}-0")
        return wait.reason if wait is not None and wait.cause is Cause.FETCHING else ""


@pytest.fixture
def fleet(services: Services, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    for name, value in (hub.environ(tmp_path / "home") | {"HF_TOKEN": "hf_ours"}).items():
        monkeypatch.setenv(name, value)
    fleet = Fleet(services, tmp_path)
    fleet.fetcher.tend()
    fleet.wait(lambda: fleet.redis.exists(fetcher_key("a")), "the fetcher")
    yield fleet
    fleet.fetcher.stop()
    fleet.redis.close()


def test_a_run_gets_its_gpu_when_its_files_are_there(fleet: Fleet, hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    run_id = fleet.submit()
    reason = fleet.wait(lambda: "%" in fleet.reason(run_id) and fleet.reason(run_id), "progress in the reason")
    assert reason.startswith("its files are fetched on a: ") and reason.endswith("of 400 kB")
    assert fleet.start(run_id) is None, "it holds a GPU while its files are fetched"
    hub.stuck = set()
    hub.go_on.set()
    start = fleet.wait(lambda: fleet.start(run_id), "the run to be planned")
    assert start.box == "a"
    assert hub.downloads["model.safetensors"] == hub.downloads["chartqa/lite.parquet"] == 1
    second = fleet.submit()
    assert fleet.wait(lambda: fleet.start(second), "the second run to be planned").box == "a"
    assert not fleet.reason(second)
    assert hub.downloads["model.safetensors"] == 1


def test_a_cancelled_run_stops_its_fetch(fleet: Fleet, hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    run_id = fleet.submit()
    fleet.wait(hub.reached.is_set, "the download to begin")
    fleet.services.lifecycle.cancel(run_id)
    fleet.wait(lambda: not fleet.redis.hgetall(fetch_orders_key("a")), "the order to be withdrawn")
    fleet.wait(lambda: not fleet.redis.hgetall(fetch_states_key("a")), "the fetch to stop")
    assert hub.downloads["model.safetensors"] == 0


def test_a_run_whose_files_cannot_be_fetched_goes_on_without(fleet: Fleet, hub: FakeHub) -> None:
    hub.models.clear()
    run_id = fleet.submit()
    assert fleet.wait(lambda: fleet.start(run_id), "the run to be planned")
    busy = [fleet.submit() for _ in range(5)]
    waits = fleet.wait(
        lambda: len(fleet.services.fleet.waits()) > 1 and fleet.services.fleet.waits(), "others to wait"
    )
    told = [waits[f"{other}-0"].reason for other in busy if f"{other}-0" in waits]
    assert any("could not be fetched beforehand on a: the Hub has no lab/small" in reason for reason in told), told


def test_a_run_without_gpus_waits_for_no_files(fleet: Fleet, hub: FakeHub) -> None:
    run_id = fleet.submit(gpus=0)
    assert fleet.wait(lambda: fleet.start(run_id), "the run to be planned")
    assert hub.requests == []
