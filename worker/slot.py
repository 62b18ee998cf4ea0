"""Entry point of one slot's process (``python -P -m worker.slot``): a `GpuWorker` under a supervisor.

What it is comes as one JSON object on stdin: everybody on the machine can read arguments, and the queue's address
may hold a password.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from typing import Any

import redis

from mlflow_lmms.settings import Settings
from worker.gpu_worker import ORPHAN_SIGNAL, GpuWorker
from worker.leases import Slot
from worker.process_tree import end_with_parent

#: Seconds without work after which a worker that is to exit when idle does so.
IDLE_S = 5


def slot_input(slot: Slot, settings: Settings, *, exit_when_idle: bool) -> bytes:
    """What `main` reads."""
    told = {
        "slot": asdict(slot),
        "settings": settings.model_dump(mode="json"),
        "exit_when_idle": exit_when_idle,
        "supervisor": os.getpid(),
    }
    return json.dumps(told).encode()


def main() -> None:
    """Work until told to stop."""
    told: dict[str, Any] = json.load(sys.stdin)
    # A slot whose supervisor is gone finishes what it runs and ends. Hazard: the kernel tells it once for every
    # thread that the supervisor had, and a second SIGTERM would give back what runs.
    if not end_with_parent(ORPHAN_SIGNAL, told["supervisor"]):
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Calls are repeated by the delivery, which knows when to give up.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    settings = Settings.model_validate(told["settings"])
    given = told["slot"]
    slot = Slot(given["box"], given["name"], given["with_gpus"])
    import worker.job  # noqa: F401 - MLflow takes a second to import: once here, not in every forked process

    connection = redis.Redis.from_url(settings.redis_address)
    GpuWorker(slot=slot, settings=settings, connection=connection, name=slot.name).work(
        logging_level="INFO", max_idle_time=IDLE_S if told["exit_when_idle"] else None
    )


if __name__ == "__main__":
    main()
