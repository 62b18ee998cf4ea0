"""A part on GPUs, with a made-up driver under the real binding: the last look before the start, and telemetry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import GIB, FakeDriver, uuid_of
from test_worker_part import RUN, World

from mlflow_lmms.evaluation_queue import job_id
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.work_order import Use
from mlflow_lmms.worker_api_client import HeldPart
from worker.delivery import Delivery
from worker.job import carry_out
from worker.leases import Claim
from worker.part_run import BoxSide, PartRun
from worker.process_tree import kill_all, processes_of
from worker.stop_request import StopReason


class GpuWorld(World):
    """A part that holds the first GPU."""

    quarantined: list[str]

    @property
    def claim(self) -> Claim:
        return Claim(job_id(RUN, "p0"), "rq:queue:lmms-normal", 7, (uuid_of(0),), "b", "b.gpu0")

    def evaluate(self, *tasks: str) -> bool:
        self.quarantined = []
        order = self.order(*tasks)
        delivery = Delivery(self.server, self.recorder, HeldPart(RUN, "p0", 7), 1, order.tasks, self.stop)
        box = BoxSide(quarantine=self._note)
        events = EventLog(self.url)
        part = PartRun(order, self.claim, self.settings, self.stop, delivery, events, {"PATH": "/usr/bin:/bin"}, box)
        return carry_out(part, delivery, self.stop)

    def _note(self, gpus: Iterable[str]) -> None:
        self.quarantined += gpus

    def samples(self) -> list[dict[str, Any]]:
        return [gpu for event in self.events("gpu") for gpu in event.data["gpus"]]

    def end(self) -> tuple[bool, Use]:
        """What the server was told at the end: whether the part was given back, and what it used."""
        _, given_back, use = next(call for call in self.server.told if call[0] == "part finished")
        return given_back, use


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver(tmp_path / "nvml")
    monkeypatch.setenv("FAKE_NVML_STATE", driver.environ["FAKE_NVML_STATE"])
    driver.load()
    return driver


@pytest.fixture
def world(empty_valkey: str, tmp_path: Path, driver: FakeDriver) -> Iterator[GpuWorld]:
    world = GpuWorld(empty_valkey, tmp_path)
    yield world
    left = processes_of(world.claim.mark)
    kill_all(world.claim.mark)
    assert left == [], "a process was left over"


def test_a_gpu_that_somebody_took_sends_the_part_elsewhere_without_a_try(world: GpuWorld, driver: FakeDriver) -> None:
    driver.tell({"0.used": 2 * GIB}, processes={0: {1: 2 * GIB}})
    assert not world.evaluate("ok_1"), "the job waits again"
    assert world.quarantined == [uuid_of(0)]
    assert [call[0] for call in world.server.told] == ["files", "part finished"], (
        "nothing was started and nothing failed"
    )
    assert world.end()[0], "it was given back"
    lines = [line["message"] for event in world.events("log") for line in event.data["lines"]]
    assert any("processes 1 use 2048 MiB" in line for line in lines)


def test_a_gpu_that_is_lost_while_a_part_runs_costs_samples_and_no_more(world: GpuWorld, driver: FakeDriver) -> None:
    driver.tell({"0.utilisation": 80, "0.milliwatts": 400_000})

    def reached(condition: Any) -> bool:
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(condition())

    seen: list[bool] = []

    def meanwhile() -> None:
        mark = world.claim.mark
        seen.append(reached(lambda: len(world.samples()) >= 1 and processes_of(mark)))
        runner = processes_of(mark)[-1].pid
        told = {"0.utilisation": 80, "0.milliwatts": 400_000, "0.used": 4 * GIB}
        driver.tell(told, processes={0: {runner: 3 * GIB, 1: GIB}})
        seen.append(reached(lambda: any(sample["memory"] == 3 * GIB for sample in world.samples())))
        driver.tell({"error.Handle.0": 15, "error.Init": 15})
        time.sleep(2.5)  # one more question to the driver, at least
        world.stop.ask(StopReason.CANCEL)

    thread = threading.Thread(target=meanwhile)
    thread.start()
    assert world.evaluate("hangs_1")
    thread.join()
    assert seen == [True, True]
    given_back, use = world.end()
    assert not given_back
    assert use.peak_memory == 3 * GIB, "what others use is not the part's"
    assert use.mean_utilisation == pytest.approx(80.0)
    assert use.energy_j is not None
    assert 0 < use.energy_j < 400 * use.gpu_seconds
    assert {sample["uuid"] for sample in world.samples()} == {uuid_of(0)}


def test_a_part_on_a_clean_gpu_tells_what_it_used(world: GpuWorld) -> None:
    assert world.evaluate("ok_1")
    assert world.quarantined == []
    given_back, use = world.end()
    assert not given_back
    assert use.gpu_seconds > 0
    assert use.peak_memory == 0
