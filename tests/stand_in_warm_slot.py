"""A slot's process whose parts start a made-up runner, warm where they can. A script for test_warm_start."""

from __future__ import annotations

from pathlib import Path

import redis
from warm_box import Box

import worker.job
import worker.slot
from mlflow_lmms.evaluation_queue import job_id
from worker.assignment import assigned
from worker.lease_keeper import own_connection
from worker.leases import LeaseBook


def run_part(run_id: str, part: str) -> None:
    """Run, and note whether it was a copy; a part called ``long`` does not end."""
    held = assigned(job_id(run_id, part))
    folder: Path = held.settings.data_folder
    box = Box(folder, warm=held.warm)
    process = box.start("tell(up=1)\n" + "time.sleep(300)" * (part == "long"), mark=held.claim.mark)
    forked = box.hear(process)[0]["forked"]
    (folder / part).write_text("warm" if forked else "cold")
    box.end(process)
    with redis.Redis.from_url(held.settings.redis_address) as connection:
        LeaseBook(own_connection(connection, 2), 15).finish(held.claim)


if __name__ == "__main__":
    worker.job.run_part = run_part
    worker.slot.main()
