"""The watch over the GPUs, with its real asking process and the real binding on a made-up driver."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_nvml import FakeDriver, uuid_of

from worker.gpu_inventory import Gpu, GpuProblem, Inventory, Trouble
from worker.gpu_watch import GpuWatch, as_now
from worker.places import jobs_at_once


def wait_for(true: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver(tmp_path / "nvml")
    for name, value in driver.environ.items():
        monkeypatch.setenv(name, value)
    return driver


@pytest.fixture
def watch(driver: FakeDriver) -> Iterator[GpuWatch]:
    watch = GpuWatch(every_s=0.05, first_answer_s=20, silence_s=1.0)
    watch.start()
    yield watch
    watch.stop()


def test_what_changes_is_known_soon(watch: GpuWatch, driver: FakeDriver) -> None:
    assert [gpu.uuid for gpu in watch.first().gpus] == [uuid_of(0), uuid_of(1)]
    chosen = watch.first().gpus
    driver.tell({"error.Handle.0": 15, "1.temperature": 80})
    wait_for(lambda: len(watch.latest().gpus) == 1)
    lost, other = as_now(chosen, watch.latest())
    assert (lost.usable, lost.problem, lost.uuid) == (False, GpuProblem.LOST, uuid_of(0))
    assert (other.usable, other.temperature) == (True, 80.0)
    driver.tell()
    wait_for(lambda: all(gpu.usable for gpu in as_now(chosen, watch.latest())))


def test_a_driver_that_hangs_makes_its_gpus_unusable_and_may_recover(watch: GpuWatch, driver: FakeDriver) -> None:
    chosen = watch.first().gpus
    hanging = watch.pid
    driver.tell({"sleep.Count": 600})
    wait_for(lambda: not watch.latest().gpus)
    assert {(gpu.usable, gpu.problem) for gpu in as_now(chosen, watch.latest())} == {(False, GpuProblem.NO_ANSWER)}
    driver.tell()
    wait_for(lambda: all(gpu.usable for gpu in as_now(chosen, watch.latest())))
    assert watch.pid != hanging


def test_a_killed_asking_process_is_started_again(watch: GpuWatch) -> None:
    watch.first()
    first = watch.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: watch.pid != first and len(watch.latest().gpus) == 2)


def test_a_stopped_watch_leaves_no_process(driver: FakeDriver) -> None:
    watch = GpuWatch(every_s=0.05)
    watch.start()
    watch.first()
    pid = watch.pid
    watch.stop()
    assert pid is not None
    stat = Path(f"/proc/{pid}/stat")
    wait_for(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_gpu_that_is_gone_is_told_with_the_reason() -> None:
    gpu = Gpu(3, "GPU-a", "A", 1, used=1, power_w=2.0)
    reset = Trouble(GpuProblem.NO_PERMISSION, "GPU 3 is left out", 3)
    assert as_now([gpu], Inventory(troubles=(reset,)))[0].problem is GpuProblem.NO_PERMISSION
    assert as_now([gpu], Inventory())[0].problem is GpuProblem.LOST
    assert as_now([gpu], Inventory())[0].used is None
    assert as_now([gpu], Inventory((gpu,))) == (gpu,)


@pytest.mark.parametrize(("gigabytes", "jobs"), [(79.6, 4), (140, 4), (47.9, 2), (24, 1), (16, 1), (8, 1), (0, 1)])
def test_a_shared_gpu_has_places_by_its_memory(gigabytes: float, jobs: int) -> None:
    gpu = Gpu(0, "GPU-a", "A", int(gigabytes * (1 << 30)))
    assert jobs_at_once(gpu, shared=True) == jobs
    assert jobs_at_once(gpu, shared=False) == 1
    assert jobs_at_once(Gpu(0, "MIG-a", "A", gpu.memory, is_slice=True), shared=True) == 1
