"""The command ``mlflow-lmms worker`` on a made-up driver: GPUs shared, split, lost, used by others, from Slurm."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from fake_nvml import GIB, FakeDriver, uuid_of
from worker_box import RUN, Box, wait_for

from mlflow_lmms.queue_keys import KNOWN_BOXES_KEY, box_key


@pytest.fixture
def box(supervised_box: Box) -> Box:
    """A worker command of this test's own."""
    return supervised_box


def test_every_gpu_gets_a_slot_and_two_parts_never_share_one(box: Box, driver: FakeDriver) -> None:
    driver.tell({"0.used": 5 * GIB, "0.temperature": 66, "0.milliwatts": 250_000, "0.utilisation": 40})
    box.start("--cpu-slots", "0", environ=driver.environ)
    told = box.report()
    assert (told.cpu_slots, told.gpu_slots, [gpu.name for gpu in told.gpus]) == (0, 2, ["Made-up 80GB"] * 2)
    first = told.gpus[0]
    assert (first.index, first.memory, first.free, first.usable) == (0, 80 * GIB, 75 * GIB, True)
    assert (first.temperature, first.power_w, first.utilisation) == (66.0, 250.0, 40.0)
    for number in range(3):
        box.submit(f"{RUN[:-1]}{number}", gpus=1)
    wait_for(lambda: len(box.queue.leases()) == 2)
    leased = [gpu for lease in box.queue.leases().values() for gpu in lease.gpus]
    assert sorted(leased) == sorted(gpu.uuid for gpu in told.gpus)
    assert len(box.queue.queued()) == 1


def test_gpus_are_shared_by_memory_where_the_owner_allows_it(box: Box, driver: FakeDriver) -> None:
    box.start("--cpu-slots", "0", "--gpus", "1", "--share-gpus", environ=driver.environ)
    told = box.report()
    assert (told.shares_gpus, told.gpu_slots, [gpu.uuid for gpu in told.gpus]) == (True, 4, [uuid_of(1)])
    for number in range(3):
        box.submit(f"{RUN[:-1]}{number}", gpus=1, memory=30 * GIB)
    wait_for(lambda: len(box.queue.leases()) == 2)
    assert {(lease.gpus, lease.memory) for lease in box.queue.leases().values()} == {((uuid_of(1),), 30 * GIB)}
    assert len(box.queue.queued()) == 1


def test_slices_are_leased_and_their_gpu_is_not(box: Box, driver: FakeDriver) -> None:
    driver.tell({"0.slices": 2})
    box.start("--cpu-slots", "0", environ=driver.environ)
    told = box.report()
    assert [(gpu.uuid, gpu.is_slice) for gpu in told.gpus] == [
        (uuid_of(100), True),
        (uuid_of(101), True),
        (uuid_of(1), False),
    ]
    assert told.gpu_slots == 3


def test_a_lost_gpu_gets_no_work_until_it_is_back(box: Box, driver: FakeDriver) -> None:
    box.start("--gpus", "1", environ=driver.environ)
    assert box.gpu(uuid_of(1)).usable
    driver.tell({"error.Handle.1": 15})
    wait_for(lambda: not box.gpu(uuid_of(1)).usable)
    assert box.gpu(uuid_of(1)).problem == "lost"
    gpu_job, cpu_job = box.submit(gpus=1), box.submit("ab" * 16)
    wait_for(lambda: box.lease(cpu_job))
    assert box.lease(gpu_job) is None
    driver.tell()
    wait_for(lambda: box.lease(gpu_job))
    assert box.gpu(uuid_of(1)).problem is None


def test_a_gpu_that_others_use_gets_no_work(box: Box, driver: FakeDriver) -> None:
    driver.tell({"0.used": 2 * GIB}, processes={0: {1: 2 * GIB}})
    box.start("--gpus", "0", environ=driver.environ)
    assert box.gpu(uuid_of(0)).foreign == 2 * GIB
    gpu_job, cpu_job = box.submit(gpus=1), box.submit("ab" * 16)
    wait_for(lambda: box.lease(cpu_job))
    assert box.lease(gpu_job) is None
    driver.tell()
    wait_for(lambda: box.lease(gpu_job))


def test_a_driver_that_hangs_stops_neither_announcements_nor_burials(box: Box, driver: FakeDriver) -> None:
    process = box.start("--gpus", "0", environ=driver.environ)
    box.submit()
    wait_for(box.claimed)
    driver.tell({"sleep.Count": 600})
    before = box.lease()
    (killed,) = [slot for slot in box.slots() if slot.children()]
    killed.kill()
    wait_for(lambda: (now := box.lease()) and before and now.slot != before.slot)
    box.redis.delete(box_key("b"))
    wait_for(box.announced, 5)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert box.queue.leases() == {}


def test_inside_slurm_a_box_takes_what_it_was_given(box: Box, driver: FakeDriver) -> None:
    # Of three GPUs the first is another job's: CUDA counts the second as 0.
    driver.tell({"count": 3, "error.Handle.0": 4})
    box.name = "b-slurm77"
    end = time.time() + 3600
    given = {"SLURM_JOB_ID": "77", "SLURM_JOB_PARTITION": "big", "SLURM_JOB_END_TIME": str(int(end))}
    process = box.start("--exit-when-idle", environ={"CUDA_VISIBLE_DEVICES": "0", **given, **driver.environ})
    told = box.report()
    assert (told.box, told.cpu_slots, [gpu.uuid for gpu in told.gpus]) == ("b-slurm77", 0, [uuid_of(1)])
    assert told.labels == {"slurm", "partition=big"}
    assert told.until is not None
    assert 0 < end - told.until <= 121
    job = box.submit(gpus=1, estimated_s=60.0)
    wait_for(box.claimed)
    for each in [*process.children(recursive=True), process]:  # preempted: all are told, and the kill comes soon
        each.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert box.queue.queued() == [job]
    assert box.redis.hgetall(KNOWN_BOXES_KEY) == {}, "nobody will see this allocation again"


def test_gpus_that_are_not_there_and_a_missing_queue_are_told(box: Box, tmp_path: Path) -> None:
    assert box.start("--gpus", "0").wait(30) == 2
    assert "--gpus 0 is not on this box, which has no GPU at all" in box.log.read_text()
    gone = f"unix://{tmp_path}/nothing.sock"
    assert box.start("--redis-url", gone).wait(30) == 3
    assert "does not answer" in box.log.read_text()
    assert box.start("--cpu-slots", "0", "--gpus", "none").wait(30) == 2
    assert "no slot" in box.log.read_text()
    assert box.start("--environment", "x=/nowhere/python").wait(30) == 2
    assert "NAME=PYTHON" in box.log.read_text()
