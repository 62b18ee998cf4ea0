"""What somebody has to do for a box as a whole: announce it, and sweep leases whose holder is gone.

Done by the supervisor; a slot that ``rq worker`` started does it for itself.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import redis

from mlflow_lmms.evaluation_queue import box_key
from mlflow_lmms.settings import Settings
from mlflow_lmms.work_order import PROTOCOL
from worker.gpu_inventory import Gpu
from worker.lease_keeper import own_connection
from worker.leases import LeaseBook, Slot, mark
from worker.nvml_probe import NvmlProbe
from worker.process_tree import kill_all

logger = logging.getLogger(__name__)

#: A box that is silent for so long is gone from the fleet.
ANNOUNCED_FOR_S = 15
TICK_S = 1.0


class BoxDuties:
    """Announces one box and sweeps leases, a tick at a time."""

    def __init__(
        self, settings: Settings, connection: redis.Redis, *, cpu_slots: int, gpu_slots: int, gpus: tuple[Gpu, ...]
    ) -> None:
        self._settings = settings
        self._redis = own_connection(connection, 2.0)
        self._book = LeaseBook(self._redis, settings.lease_ttl_s)
        self._facts: Mapping[str, Any] = {
            "box": settings.box,
            "cpu_slots": cpu_slots,
            "gpu_slots": gpu_slots,
            "gpus": json.dumps([{"uuid": gpu.uuid, "name": gpu.name, "memory": gpu.memory} for gpu in gpus]),
            "version": version("mlflow-lmms"),
            "protocol": PROTOCOL,
            "environments": json.dumps(sorted(settings.environments)),
            "state": "open",
            "started": time.time(),
        }
        self._seen: dict[str, float] = {}

    def tick(self) -> None:
        """Announce and sweep.

        Raises:
            redis.RedisError: the queue server does not answer; nothing is judged gone then.
        """
        self.announce()
        self.sweep()

    def announce(self) -> None:
        """Tell the fleet that the box is there."""
        facts: dict[Any, Any] = dict(self._facts)
        pipeline = self._redis.pipeline()
        pipeline.hset(box_key(self._settings.box), mapping=facts)
        pipeline.expire(box_key(self._settings.box), ANNOUNCED_FOR_S)
        pipeline.execute()

    def withdraw(self) -> None:
        """Tell the fleet that the box takes no more work."""
        self._redis.delete(box_key(self._settings.box))

    def sweep(self) -> None:
        """Put the jobs of expired leases back into their queues; this box's processes of them are killed first."""
        leases = self._book.all()
        now = self._book.now()
        for lease in leases:
            if lease.expires_at > now:
                continue
            if lease.box == self._settings.box:
                kill_all(mark(lease.job_id, lease.token))
            if self._book.drop_expired(lease):
                logger.warning("the lease of %s by %s/%s has run out", lease.job_id, lease.box, lease.slot)
        self._kill_strays({mark(item.job_id, item.token) for item in leases if item.box == self._settings.box})

    def _kill_strays(self, held: set[str]) -> None:
        """Kill what still runs under a lease of this box that another box has swept.

        Only after a TTL: a lease that Redis forgot in a restart is written again by its keeper.
        """
        clock = time.monotonic()
        self._seen.update(dict.fromkeys(held, clock))
        for gone in [item for item, last in self._seen.items() if clock - last > self._settings.lease_ttl_s]:
            del self._seen[gone]
            if killed := kill_all(gone):
                logger.warning("%d processes of the lost lease %s were killed", killed, gone)

    def bury(self, slot: str) -> None:
        """The slot's process has ended: kill what it left and give its lease up at once."""
        for lease in self._book.all():
            if lease.slot == slot:
                kill_all(mark(lease.job_id, lease.token))
                self._book.release(lease.job_id, lease.token)
                logger.warning("slot %s ended; job %s waits again", slot, lease.job_id)

    def in_thread(self) -> None:
        """Tick for as long as this process lives."""
        threading.Thread(target=self._tick_on, name="box duties", daemon=True).start()

    def _tick_on(self) -> None:
        while True:
            try:
                self.tick()
            except redis.RedisError as error:
                logger.warning("the queue server does not answer: %s", error)
            time.sleep(TICK_S)


def own_slot(settings: Settings, connection: redis.Redis, name: str) -> tuple[Slot, BoxDuties]:
    """The slot of a worker that nobody supervises, and its duties: all GPUs where there are some, else none."""
    gpus = NvmlProbe().inventory().gpus
    slot = Slot(settings.box, name, bool(gpus))
    duties = BoxDuties(settings, connection, cpu_slots=0 if gpus else 1, gpu_slots=1 if gpus else 0, gpus=gpus)
    return slot, duties
