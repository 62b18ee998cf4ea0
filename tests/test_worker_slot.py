"""One slot with real processes and a real queue server: nothing is lost, nothing is left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from fleet_boxes import announce
from rq.command import send_stop_job_command
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from waiting_job import waiting

from mlflow_lmms.evaluation_queue import EvaluationQueue, job_id
from mlflow_lmms.queue_keys import BOX_STATE_KEY
from mlflow_lmms.redis_server import EmbeddedRedis
from mlflow_lmms.settings import Settings
from worker.box_duties import BoxDuties
from worker.gpu_worker import GpuWorker
from worker.leases import Slot, mark
from worker.process_tree import kill_all, processes_of
from worker.safe_job import SafeJob
from worker.slot import slot_input

STAND_IN = Path(__file__).with_name("stand_in_slot.py")
TTL_S = 4.0
RUN = "ab12" * 8


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@dataclass
class Bench:
    """A queue server, a data folder, and slots on them."""

    url: str
    folder: Path
    slots: list[subprocess.Popen[bytes]]

    def __post_init__(self) -> None:
        self.settings = Settings(
            data_folder=self.folder, redis_url=self.url, lease_ttl_s=TTL_S, stop_grace_s=0.2, box="b"
        )
        self.redis: redis.Redis = redis.Redis.from_url(self.url)
        announce(self.redis, "b")
        self.queue = EvaluationQueue(self.url)
        self.marks: set[str] = set()

    def start(self, name: str = "b.cpu0") -> subprocess.Popen[bytes]:
        slot = subprocess.Popen([sys.executable, "-P", str(STAND_IN)], stdin=subprocess.PIPE, cwd=self.folder)
        assert slot.stdin is not None
        slot.stdin.write(slot_input(Slot("b", name), self.settings, exit_when_idle=False))
        slot.stdin.close()
        self.slots.append(slot)
        return slot

    def submit(self, part: str, run: str = RUN) -> str:
        self.queue.enqueue(waiting(run, part, "normal", 0))
        return job_id(run, part)

    def notes(self, job: str) -> list[str]:
        path = self.folder / job
        return path.read_text().split() if path.exists() else []

    def mark(self, job: str) -> str:
        """The mark of the job's lease, once its processes run."""
        wait_for(lambda: job in self.queue.leases() and "started" in self.notes(job))
        found = mark(job, self.queue.leases()[job].token)
        self.marks.add(found)
        return found

    def idle(self) -> bool:
        return not self.queue.leases() and not self.queue.queued()

    def close(self) -> None:
        for slot in self.slots:
            slot.kill()
            slot.wait()
        for found in self.marks:
            kill_all(found)
        self.redis.close()


@pytest.fixture
def bench(empty_valkey: str, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(empty_valkey, tmp_path, [])
    yield bench
    bench.close()


def test_a_job_runs_once_and_leaves_no_lease(bench: Bench) -> None:
    job = bench.submit("quick")
    bench.start()
    wait_for(lambda: bench.notes(job) == ["started", "finished"])
    wait_for(bench.idle)
    assert bench.redis.keys("lmms:lease:*") == []
    assert bench.notes(job) == ["started", "finished"]


def test_a_job_whose_process_dies_waits_again_and_does_not_spin(bench: Bench) -> None:
    job = bench.submit("crash")
    bench.start()
    wait_for(lambda: len(bench.notes(job)) >= 3)
    token = max(lease.token for lease in bench.queue.leases().values()) if bench.queue.leases() else 3
    assert token < 20, "it was started far too often"


def test_an_evil_job_is_refused_and_the_next_one_runs(bench: Bench) -> None:
    evil = job_id(RUN, "evil")
    target = bench.folder / "broken in"
    forged: list[list[object]] = [["os.system", None, [f"touch '{target}'"], {}], ["eval", None, ["1/0"], {}]]
    for number, data in enumerate(forged):
        key = f"{evil}{number}"
        bench.redis.hset(f"rq:job:{key}", mapping={"data": json.dumps(data), "origin": "lmms-normal"})
        bench.redis.hset(f"lmms:need:{key}", "gpus", 0)
        bench.redis.rpush("rq:queue:lmms-normal", key)
    after = bench.submit("quick")
    bench.start()
    wait_for(lambda: bench.notes(after) == ["started", "finished"])
    wait_for(bench.idle)
    job = SafeJob.fetch(f"{evil}0", connection=bench.redis, serializer=JSONSerializer)
    assert job.get_status() is JobStatus.FAILED
    assert not target.exists()


def test_kill_9_of_a_slot_leaves_no_process_and_the_job_waits_again(bench: Bench) -> None:
    job = bench.submit("long")
    slot = bench.start()
    found = bench.mark(job)
    wait_for(lambda: len(processes_of(found)) == 2)
    slot.kill()
    killed_at = time.monotonic()
    duties = BoxDuties(bench.settings, bench.redis)
    while job in bench.queue.leases() or bench.queue.queued() != [job]:
        assert time.monotonic() - killed_at < TTL_S + 2, "the lease outlived its TTL"
        duties.sweep()
        time.sleep(0.1)
    assert processes_of(found) == []
    bench.start("b.cpu1")
    wait_for(lambda: bench.notes(job) == ["started", "started"])


def test_a_supervisor_that_sees_the_slot_die_need_not_wait_for_the_ttl(bench: Bench) -> None:
    job = bench.submit("long")
    slot = bench.start()
    found = bench.mark(job)
    slot.kill()
    slot.wait()
    BoxDuties(bench.settings, bench.redis).bury("b.cpu0")
    assert processes_of(found) == []
    assert bench.queue.queued() == [job]


@pytest.mark.parametrize("how", ["cancel set", "RQ stop command"])
def test_a_cancelled_part_is_told_and_every_process_of_it_ends(bench: Bench, how: str) -> None:
    job = bench.submit("long")
    bench.start()
    found = bench.mark(job)
    if how == "cancel set":
        bench.queue.ask_cancel(RUN)
    else:
        send_stop_job_command(bench.redis, job, serializer=JSONSerializer)
    wait_for(lambda: bench.notes(job) == ["started", "cancel"], 5)
    wait_for(lambda: processes_of(found) == [], 5)
    wait_for(bench.idle)


def test_a_stop_before_the_fork_kills_nobody_and_is_not_forgotten(bench: Bench) -> None:
    slot = GpuWorker(slot=Slot("b", "b.cpu0"), settings=bench.settings, connection=bench.redis)
    slot.kill_horse()  # the stock worker kills its own process group here
    assert slot._asked == "cancel"


def test_a_stop_between_claim_and_fork_reaches_the_part_and_the_slot_goes_on(bench: Bench) -> None:
    job = bench.submit("long_stopped_early")
    slot = bench.start()
    wait_for(lambda: bench.notes(job) == ["started", "cancel"])
    wait_for(bench.idle)
    other = bench.submit("quick")
    wait_for(lambda: bench.notes(other) == ["started", "finished"])
    assert slot.poll() is None


def test_a_drained_box_gives_its_part_back_and_its_slot_goes_on_when_it_is_open_again(bench: Bench) -> None:
    job = bench.submit("long")
    slot = bench.start()
    found = bench.mark(job)
    bench.redis.hset(BOX_STATE_KEY, "b", "drained")
    wait_for(lambda: bench.notes(job) == ["started", "give_back"])
    wait_for(lambda: bench.queue.queued() == [job])
    assert bench.queue.leases() == {}
    assert processes_of(found) == []
    other = bench.submit("quick")
    assert slot.poll() is None
    bench.redis.hdel(BOX_STATE_KEY, "b")
    wait_for(lambda: len(bench.notes(job)) == 3)
    (bench.folder / "go on").touch()
    wait_for(lambda: bench.notes(other) == ["started", "finished"])
    assert bench.notes(job) == ["started", "give_back", "started", "finished"]


def test_a_part_that_ignores_the_request_is_killed(bench: Bench) -> None:
    job = bench.submit("stubborn")
    bench.start()
    bench.mark(job)
    bench.queue.ask_cancel(RUN)
    wait_for(lambda: bench.queue.leases() == {}, 10)


def test_the_first_sigterm_waits_for_the_part_and_takes_no_other(bench: Bench) -> None:
    job = bench.submit("wait")
    slot = bench.start()
    bench.mark(job)
    other = bench.submit("quick")
    slot.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        slot.wait(1)
    (bench.folder / "go on").touch()
    assert slot.wait(10) == 0
    assert bench.notes(job) == ["started", "finished"]
    assert bench.queue.queued() == [other]
    assert bench.notes(other) == []


def test_the_second_sigterm_gives_the_part_back(bench: Bench) -> None:
    job = bench.submit("long")
    slot = bench.start()
    found = bench.mark(job)
    for _ in range(2):
        slot.send_signal(signal.SIGTERM)
        time.sleep(0.1)  # two signals at once are delivered as one
    assert slot.wait(10) == 0
    assert bench.notes(job) == ["started", "give_back"]
    assert bench.queue.queued() == [job]
    assert processes_of(found) == []


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "queue")
    server.start()
    yield server
    server.stop()


def test_a_restart_of_the_queue_server_does_not_disturb_a_running_part(
    own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    bench = Bench(own_server.url, tmp_path, [])
    try:
        job = bench.submit("long")
        slot = bench.start()
        found = bench.mark(job)
        assert own_server.process is not None
        own_server.process.kill()
        own_server.process.wait()
        own_server.process = None
        time.sleep(1)
        own_server.start()
        time.sleep(1.5)
        assert len(processes_of(found)) == 2, "the part was disturbed"
        assert slot.poll() is None
        (tmp_path / "go on").touch()
        wait_for(lambda: bench.notes(job) == ["started", "finished"])
        wait_for(bench.idle)
        assert slot.poll() is None
    finally:
        bench.close()


def test_a_slot_that_cannot_renew_stops_its_part_before_the_lease_can_be_given_away(
    own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    bench = Bench(own_server.url, tmp_path, [])
    assert own_server.process is not None
    try:
        job = bench.submit("long")
        bench.start()
        found = bench.mark(job)
        wait_for(lambda: len(processes_of(found)) == 2)
        os.kill(own_server.process.pid, signal.SIGSTOP)
        frozen_at = time.monotonic()
        wait_for(lambda: processes_of(found) == [], TTL_S + 2)
        assert time.monotonic() - frozen_at < TTL_S
    finally:
        os.kill(own_server.process.pid, signal.SIGCONT)
        bench.close()
