"""``rq worker -w worker.GpuWorker -j worker.SafeJob --serializer json`` alone: plans, drains, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from mlflow_lmms.evaluation_queue import EvaluationQueue, Lease
from mlflow_lmms.planner.fleet import Job, Start
from mlflow_lmms.queue_keys import BOX_STATE_KEY, PLAN_AT_KEY, PLAN_STARTS_KEY, start_json

BOX = "b"
COMMAND = (str(Path(sys.executable).with_name("rq")), "worker")
OPTIONS = ("-w", "worker.GpuWorker", "-j", "worker.SafeJob", "--serializer", "json")


def wait_for(true: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


class Workers:
    """Workers without a supervisor. Their server is away, so a part that one has claimed stays claimed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.redis = redis.Redis.from_url(url)
        self.queue = EvaluationQueue(url)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "CUDA_"))}
        outside |= {"MLFLOW_LMMS_BOX": BOX, "MLFLOW_LMMS_REDIS_URL": self.url, "MLFLOW_LMMS_LEASE_TTL_S": "6"}
        outside |= {
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "MLFLOW_LMMS_DATA_FOLDER": str(self.folder / "data"),
        }
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, "--url", self.url, *OPTIONS], env=outside, cwd=self.folder, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def submit(self, run: str) -> str:
        job = Job(run * 32, "p0", "alice", 0, time.time())
        self.queue.enqueue(job)
        return job.id

    def plan(self, *starts: Start) -> None:
        with self.redis.pipeline() as pipeline:
            pipeline.delete(PLAN_STARTS_KEY)
            for start in starts:
                pipeline.hset(PLAN_STARTS_KEY, start.job, start_json(start))
            seconds: tuple[int, int] = self.redis.time()
            pipeline.set(PLAN_AT_KEY, seconds[0] + 3600)  # stays fresh for as long as the test takes
            pipeline.execute()

    def lease(self, job: str) -> Lease | None:
        return self.queue.leases().get(job)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.redis.close()


@pytest.fixture
def workers(empty_valkey: str, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(empty_valkey, tmp_path)
    yield workers
    workers.close()


def test_it_follows_the_plan_and_gives_back_when_its_box_is_drained(workers: Workers) -> None:
    first, second = workers.submit("a"), workers.submit("c")
    workers.plan(Start(second, BOX, ()))
    process = workers.start()
    wait_for(lambda: workers.lease(second))
    assert workers.queue.queued() == [first]

    token = workers.queue.leases()[second].token
    workers.redis.hset(BOX_STATE_KEY, BOX, "drained")
    wait_for(lambda: workers.queue.queued() == [second, first])
    assert workers.queue.leases() == {}
    workers.plan(Start(second, BOX, ()))
    wait_for(lambda: workers.redis.hget(f"lmms:box:{BOX}", "state") == b"open")
    assert process.poll() is None, "it goes on when the box is opened again"
    assert workers.lease(second) is None

    workers.redis.hdel(BOX_STATE_KEY, BOX)
    wait_for(lambda: workers.lease(second))
    assert workers.queue.leases()[second].token > token
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # two signals at once are delivered as one
    assert process.wait(30) == 0
    assert workers.queue.queued() == [second, first]


def test_several_on_one_box_work_at_the_same_time(workers: Workers) -> None:
    jobs = [workers.submit("a"), workers.submit("c")]
    for _ in jobs:
        workers.start()
    wait_for(lambda: all(workers.lease(job) for job in jobs))
    leases = workers.queue.leases()
    assert len({lease.slot for lease in leases.values()}) == 2
    assert {lease.box for lease in leases.values()} == {BOX}
