"""What a box tells the fleet of itself, once a second: its slots, its GPUs as they are, and whether it takes work.

The claim takes a box's facts from here and from nowhere else: a box that is not announced is given nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import redis

from mlflow_lmms.evaluation_queue import Lease
from mlflow_lmms.queue_keys import (
    KNOWN_BOXES_KEY,
    WAKE_CHANNEL,
    BoxReport,
    GpuReport,
    box_key,
    known_from_json,
    known_json,
    quarantine_key,
)
from mlflow_lmms.settings import Settings
from mlflow_lmms.work_order import PROTOCOL
from worker.gpu_inventory import Gpu
from worker.gpu_processes import foreign_memory, lease_of
from worker.leases import mark

#: A box that is silent for so long is gone from the fleet.
ANNOUNCED_FOR_S = 15
_KNOWN_EVERY_S = 30.0
_KNOWN_FOR_S = 30 * 24 * 3600.0


class Announcement:
    """Writes one box's facts; errors of Redis pass through as `redis.RedisError`."""

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis,
        *,
        labels: Sequence[str] = (),
        until: float | None = None,
        cache: str = "",
        for_a_while: bool = False,
    ) -> None:
        """Prepare; `for_a_while`: after `until` nobody will see the box again, so that no job need wait for it."""
        self._redis = connection
        self._box = settings.box
        self._report = BoxReport(
            box=settings.box,
            labels=frozenset((*settings.labels, *labels)),
            shares_gpus=settings.share_gpus,
            environments=frozenset(settings.environments),
            version=version("mlflow-lmms"),
            protocol=PROTOCOL,
            until=until,
            cache=cache,
            started=time.time(),
        )
        self._for_a_while = for_a_while
        self._known_at: float | None = None

    def tell(
        self, gpus: Sequence[Gpu], leases: Sequence[Lease], *, cpu_slots: int, gpu_slots: int, draining: bool
    ) -> None:
        """Tell the fleet that the box is there, with these slots and GPUs, under these leases of the whole fleet."""
        quarantined = self._quarantined(gpus)
        own = [lease for lease in leases if lease.box == self._box]
        told = tuple(gpu_report(gpu, own, quarantined=gpu.uuid in quarantined) for gpu in gpus)
        state = "draining" if draining else "open"
        report = replace(self._report, cpu_slots=cpu_slots, gpu_slots=gpu_slots, gpus=told, state=state)
        fields: dict[Any, Any] = report.fields()
        pipeline = self._redis.pipeline()
        pipeline.hset(box_key(self._box), mapping=fields)
        pipeline.expire(box_key(self._box), ANNOUNCED_FOR_S)
        first = self._known_at is None
        if first:
            self._forget_long_gone()
        if self._known_at is None or time.monotonic() - self._known_at > _KNOWN_EVERY_S:
            known = report if self._for_a_while else replace(report, until=None)
            pipeline.hset(KNOWN_BOXES_KEY, self._box, known_json(known, time.time()))
            self._known_at = time.monotonic()
        if first:
            pipeline.publish(WAKE_CHANNEL, self._box)
        pipeline.execute()

    def withdraw(self) -> None:
        """The box is gone."""
        self._redis.delete(box_key(self._box))
        if self._for_a_while:
            self._redis.hdel(KNOWN_BOXES_KEY, self._box)
        self._redis.publish(WAKE_CHANNEL, self._box)

    def _forget_long_gone(self) -> None:
        entries: Any = self._redis.hgetall(KNOWN_BOXES_KEY)
        for box, text in entries.items():
            try:
                seen_at = known_from_json(text)[1]
            except (ValueError, KeyError, TypeError, AttributeError):  # no program of ours wrote it
                continue
            if time.time() - seen_at > _KNOWN_FOR_S:
                self._redis.hdel(KNOWN_BOXES_KEY, box)

    def _quarantined(self, gpus: Sequence[Gpu]) -> set[str]:
        if not gpus:
            return set()
        answers: Any = self._redis.mget([quarantine_key(gpu.uuid) for gpu in gpus])
        return {gpu.uuid for gpu, answer in zip(gpus, answers, strict=True) if answer is not None}


def gpu_report(gpu: Gpu, leases: Sequence[Lease], *, quarantined: bool) -> GpuReport:
    """What is told of one GPU; `leases` are this box's."""
    marks = {mark(lease.job_id, lease.token) for lease in leases}
    on_it = [lease for lease in leases if gpu.uuid in lease.gpus]
    held = sum(gpu.memory if lease.memory is None else lease.memory for lease in on_it)
    return GpuReport(
        uuid=gpu.uuid,
        name=gpu.name,
        memory=gpu.memory,
        free=max(0, gpu.memory - gpu.used) if gpu.used is not None and gpu.memory else None,
        foreign=foreign_memory(gpu, lambda pid: lease_of(pid) in marks, held),
        is_slice=gpu.is_slice,
        usable=gpu.usable,
        index=gpu.index,
        utilisation=gpu.utilisation,
        temperature=gpu.temperature,
        power_w=gpu.power_w,
        problem=str(gpu.problem) if gpu.problem else ("quarantined" if quarantined else None),
    )
