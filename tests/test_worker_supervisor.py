"""The command ``mlflow-lmms worker``: slots started, restarted, drained, whatever lies in the current folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from fake_nvml import GIB, FakeDriver, uuid_of
from waiting_job import waiting

from mlflow_lmms.evaluation_queue import EvaluationQueue, Lease, job_id
from mlflow_lmms.queue_keys import BOX_STATE_KEY, KNOWN_BOXES_KEY, BoxReport, GpuReport, box_key

COMMAND = Path(sys.executable).with_name("mlflow-lmms")
RUN = "ef56" * 8


def wait_for(true: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended
        return []


class Box:
    """A running worker command. Its server is away, so a part that it claims stays claimed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.queue = EvaluationQueue(url)
        self.redis: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        self._url = url
        self._folder = folder
        self.name = "b"
        self.process: psutil.Popen | None = None
        self.log = folder / "worker.log"

    def start(
        self, *options: str, current_folder: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> psutil.Popen:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "CUDA_"))}
        outside |= {"MLFLOW_LMMS_BOX": "b", "MLFLOW_LMMS_REDIS_URL": self._url, "MLFLOW_LMMS_LEASE_TTL_S": "6"}
        outside |= {"HF_HOME": str(self._folder / "huggingface")}
        command = [str(COMMAND), "worker", "--data-folder", str(self._folder / "data")]
        command += ["--server-url", "http://127.0.0.1:9"]
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                [*command, *options],
                env={**outside, **(environ or {})},
                cwd=current_folder or self._folder,
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        return self.process

    def slots(self) -> list[psutil.Process]:
        assert self.process is not None
        return [child for child in self.process.children() if "worker.slot" in _words(child)]

    def programs(self) -> set[str]:
        """The modules that run below it."""
        assert self.process is not None
        return {word for child in self.process.children(recursive=True) for word in _words(child)}

    def told(self) -> BoxReport | None:
        """What the box announces now."""
        fields: Any = self.redis.hgetall(box_key(self.name))
        return BoxReport.from_fields(fields) if fields else None

    def announced(self) -> bool:
        return self.told() is not None

    def report(self) -> BoxReport:
        wait_for(self.announced)
        told = self.told()
        assert told is not None
        return told

    def gpu(self, uuid: str) -> GpuReport:
        return next(gpu for gpu in self.report().gpus if gpu.uuid == uuid)

    def submit(self, run: str = RUN, gpus: int = 0, **need: object) -> str:
        self.queue.enqueue(waiting(run, "p0", "normal", gpus, **need))
        return job_id(run, "p0")

    def lease(self, job: str = job_id(RUN, "p0")) -> Lease | None:
        return self.queue.leases().get(job)

    def claimed(self) -> bool:
        return self.lease() is not None

    def close(self) -> None:
        if self.process is not None and self.process.is_running():
            tree = self.process.children(recursive=True)
            for process in [self.process, *tree]:
                if process.is_running():
                    process.kill()
            self.process.wait()
        self.redis.close()


@pytest.fixture
def box(empty_valkey: str, tmp_path: Path) -> Iterator[Box]:
    box = Box(empty_valkey, tmp_path)
    yield box
    box.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(built: FakeDriver) -> FakeDriver:
    built.tell()
    return built


def test_a_box_announces_itself_takes_work_and_gives_it_back(box: Box) -> None:
    process = box.start("--cpu-slots", "2", "--environment", f"other={sys.executable}", "--label", "quiet")
    told = box.report()
    assert (told.cpu_slots, told.gpu_slots, told.gpus, told.state, told.until) == (2, 0, (), "open", None)
    assert (set(told.environments), set(told.labels), told.shares_gpus) == ({"other"}, {"quiet"}, False)
    assert told.cache != ""
    wait_for(lambda: len(box.slots()) == 2)
    assert {Path(slot.cwd()) for slot in box.slots()} == {box.log.parent / "data" / "worker"}
    assert list((box.log.parent / "data" / "worker").iterdir()) == []
    box.submit()
    wait_for(box.claimed)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: box.report().state == "draining")
    wait_for(lambda: len(box.slots()) == 1)
    assert box.claimed(), "the first request to stop waits for what runs"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not box.announced()
    assert "b" in box.redis.hgetall(KNOWN_BOXES_KEY), "it will be back"
    assert box.queue.leases() == {}
    assert box.queue.queued() == [job_id(RUN, "p0")]


@pytest.mark.parametrize("options", [["--no-drain"], ["--drain-for", "1"]])
def test_without_draining_or_after_its_time_what_runs_is_given_back(box: Box, options: list[str]) -> None:
    process = box.start(*options)
    box.submit()
    wait_for(box.claimed)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert box.queue.queued() == [job_id(RUN, "p0")]


def test_a_killed_slot_is_buried_and_started_again(box: Box) -> None:
    box.start()
    box.submit()
    wait_for(box.claimed)
    (before,) = box.queue.leases().values()
    (slot,) = box.slots()
    horses = slot.children()
    slot.kill()
    wait_for(lambda: box.queue.queued() == [job_id(RUN, "p0")] and not box.queue.leases(), 3)
    wait_for(lambda: any(lease.slot != before.slot for lease in box.queue.leases().values()))
    assert not any(horse.is_running() and horse.status() != psutil.STATUS_ZOMBIE for horse in horses)
    (after,) = box.queue.leases().values()
    assert after.token > before.token


def test_a_killed_supervisor_leaves_nothing_that_goes_on_for_long(box: Box, driver: FakeDriver) -> None:
    process = box.start("--gpus", "0", environ=driver.environ)
    wait_for(lambda: box.log.read_text().count("Listening on") == 2)
    wait_for(lambda: {"worker.slot", "worker.gpu_stream", "worker.fetcher"} <= box.programs())
    tree = process.children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(tree, timeout=20)[1] == []


def test_an_idle_box_ends_when_told_so_and_not_before(box: Box) -> None:
    process = box.start("--exit-when-idle", "--cpu-slots", "2")
    box.submit()
    wait_for(box.claimed)
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(8)
    assert len(box.slots()) == 2, "a slot without work waits for more as long as the box has some"
    box.queue.ask_cancel(RUN)
    assert process.wait(60) == 0
    assert not box.announced()


def test_files_in_the_current_folder_break_nothing(box: Box, tmp_path: Path) -> None:
    here = tmp_path / "mine"
    here.mkdir()
    for name in ("worker", "redis", "rq", "click", "logging", "mlflow_lmms", "plugin_ui"):
        (here / f"{name}.py").write_text("raise RuntimeError('a file of the user was imported')")
    box.start("--cpu-slots", "1", current_folder=here)
    wait_for(lambda: "Listening on" in box.log.read_text())
    assert "a file of the user" not in box.log.read_text()
    assert box.announced()


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


def test_an_admin_drains_a_box_and_opens_it_again(box: Box) -> None:
    box.start()
    job = box.submit()
    wait_for(box.claimed)
    box.redis.hset(BOX_STATE_KEY, "b", "drained")
    wait_for(lambda: box.queue.queued() == [job] and not box.queue.leases())
    wait_for(lambda: "this box is drained" in box.log.read_text())
    box.redis.hdel(BOX_STATE_KEY, "b")
    wait_for(box.claimed)
    wait_for(lambda: "open again" in box.log.read_text())


def test_a_box_whose_time_ends_takes_what_fits_and_gives_it_back(box: Box) -> None:
    process = box.start("--until", "60s", "--cpu-slots", "2")
    until = box.report().until
    assert until is not None
    assert 10 < until - time.time() < 54.5, "a tenth of the time is kept for giving back"
    long = box.submit("ab" * 16, estimated_s=3600.0)
    short = box.submit(estimated_s=1.0)
    wait_for(box.claimed, 50)
    assert box.lease(long) is None
    assert process.wait(60) == 0
    assert sorted(box.queue.queued()) == sorted([short, long])
    assert "the time of this box is over" in box.log.read_text()


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


def test_the_address_of_the_queue_is_in_no_command_line(box: Box, empty_valkey: str) -> None:
    box.start()
    wait_for(lambda: len(box.slots()) == 1)
    assert box.process is not None
    lines = [_words(child) for child in box.process.children(recursive=True)]
    assert empty_valkey not in json.dumps(lines)


def test_rq_s_own_command_runs_slots_too(box: Box, empty_valkey: str, tmp_path: Path) -> None:
    outside = {**os.environ, "MLFLOW_LMMS_BOX": "b", "MLFLOW_LMMS_REDIS_URL": empty_valkey}
    outside |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_LMMS_DATA_FOLDER": str(tmp_path / "data")}
    command = [str(COMMAND.with_name("rq")), "worker", "--url", empty_valkey]
    command += ["-w", "worker.GpuWorker", "-j", "worker.SafeJob", "--serializer", "json"]
    with box.log.open("ab") as log:
        workers = [psutil.Popen(command, env=outside, cwd=tmp_path, stdout=log, stderr=log) for _ in range(2)]
    try:
        wait_for(lambda: box.report().cpu_slots == 2)
        jobs = [box.submit(), box.submit("ab" * 16)]
        wait_for(lambda: all(box.lease(job) for job in jobs))
        for worker in workers:
            for _ in range(2):
                worker.send_signal(signal.SIGTERM)
                time.sleep(0.2)
        assert [worker.wait(30) for worker in workers] == [0, 0]
        assert sorted(box.queue.queued()) == sorted(jobs)
    finally:
        for worker in workers:
            if worker.is_running():
                worker.kill()
