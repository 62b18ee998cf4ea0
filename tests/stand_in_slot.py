"""A slot's process whose parts do something simple, chosen by the part's name. A script for test_worker_slot."""

from __future__ import annotations

import os
import subprocess
import time

import redis
from rq import Queue
from rq.job import Job

import worker.gpu_worker
import worker.job
import worker.slot
from mlflow_lmms.evaluation_queue import job_id
from worker.assignment import Assignment, assigned
from worker.lease_keeper import own_connection
from worker.leases import LeaseBook
from worker.process_tree import LEASE_VARIABLE


def run_part(run_id: str, part: str) -> None:
    """Do what the part's name says, and note it in the data folder."""
    held = assigned(job_id(run_id, part))
    notes = held.settings.data_folder / f"{run_id}-{part}"
    with notes.open("a") as file:
        file.write("started\n")
    if part == "crash":
        os.kill(os.getpid(), 9)
    if part.startswith("long"):
        tree(held, run_id)
    if part == "stubborn":
        time.sleep(300)
    while part.startswith(("long", "wait")) and held.stop.reason is None:
        if (held.settings.data_folder / "go on").exists():
            break
        time.sleep(0.02)
    with notes.open("a") as file:
        file.write(f"{held.stop.reason or 'finished'}\n")
    if held.stop.reason != "give_back":
        with redis.Redis.from_url(held.settings.redis_address) as connection:
            LeaseBook(own_connection(connection, 2), 15).finish(held.claim)


def tree(held: Assignment, run_id: str) -> None:
    """Start a child and a grandchild in a session of its own, marked as the runner's processes are."""
    environ = {**os.environ, LEASE_VARIABLE: held.claim.mark}
    subprocess.Popen(["sleep", "300"], env=environ, start_new_session=True)
    subprocess.Popen(["setsid", "sh", "-c", "sleep 300 & exit 0"], env=environ, start_new_session=True).wait()


fork = worker.gpu_worker.GpuWorker.fork_work_horse


def fork_after_a_stop(slot: worker.gpu_worker.GpuWorker, job: Job, queue: Queue) -> None:
    """Have a request to stop come between claim and fork, where the stock worker kills its own process group."""
    if job.id.endswith("stopped_early"):
        slot.kill_horse()
    fork(slot, job, queue)


if __name__ == "__main__":
    setattr(worker.gpu_worker.GpuWorker, "fork_work_horse", fork_after_a_stop)  # noqa: B010
    worker.job.run_part = run_part
    worker.gpu_worker._WRAP_UP_S = 0.5
    worker.slot.main()
