"""A worker that nobody supervises (``rq worker -w worker.GpuWorker``): one slot, which does the box's duties itself.

Several of them on one box offer their slots together.
"""

from __future__ import annotations

import os
import time

import redis

from mlflow_lmms.queue_keys import slots_key
from mlflow_lmms.settings import Settings
from worker.allocation import allocation_of, visible_gpus
from worker.announcement import ANNOUNCED_FOR_S, Announcement
from worker.box_duties import BoxDuties, BoxOffer
from worker.cache_identity import cache_id
from worker.gpu_watch import GpuWatch
from worker.lease_keeper import own_connection
from worker.leases import Slot


def lone_slot(settings: Settings, connection: redis.Redis, name: str) -> tuple[Slot, BoxDuties]:
    """The slot: with the GPUs that this process was given, or all; without any, for work that needs none."""
    allocation = allocation_of(os.environ)
    watch = GpuWatch()
    watch.start()
    inventory = watch.first()
    gpus = inventory.gpus if allocation.visible is None else visible_gpus(allocation.visible, inventory)
    box = settings.model_copy(update={"box": allocation.box(settings.box)})
    offer = BoxOffer(gpus=gpus)
    own = own_connection(connection, 2.0)

    def count() -> None:
        key, now = slots_key(box.box), time.time()
        pipeline = own.pipeline()
        pipeline.zadd(key, {name: now})
        pipeline.zremrangebyscore(key, "-inf", now - ANNOUNCED_FOR_S)
        pipeline.expire(key, ANNOUNCED_FOR_S)
        pipeline.zcard(key)
        alive = int(pipeline.execute()[-1])
        offer.cpu_slots, offer.gpu_slots = (0, alive) if gpus else (alive, 0)

    announcement = Announcement(
        box,
        own,
        labels=allocation.labels,
        until=allocation.until,
        cache=cache_id(os.environ),
        for_a_while=allocation.name != "",
    )
    duties = BoxDuties(box, connection, offer=offer, watch=watch, announcement=announcement, refresh=count)
    return Slot(box.box, name, bool(gpus)), duties
