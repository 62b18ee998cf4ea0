"""The queue of evaluation parts: RQ on Redis, jobs as JSON with ids only, and a view of leases.

Truth about an evaluation lies in the evaluation tables; the queue holds order. Leases are written by the worker's
Lua scripts alone; here they are only read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from mlflow_lmms.planner.fleet import Job, Priority
from mlflow_lmms.queue_connection import QueueConnection
from mlflow_lmms.queue_keys import (
    CANCEL_KEY,
    FENCE_KEY,
    LEASES_KEY,
    NEEDS_REVISION_KEY,
    QUEUES,
    WAKE_CHANNEL,
    box_key,
    job_id,
    lease_key,
    need_fields,
    need_key,
    split_job_id,
)

__all__ = [
    "CANCEL_KEY",
    "FENCE_KEY",
    "JOB_FUNCTION",
    "LEASES_KEY",
    "QUEUES",
    "WAKE_CHANNEL",
    "EvaluationQueue",
    "Lease",
    "box_key",
    "job_id",
    "lease_key",
    "need_key",
    "split_job_id",
]  # fmt: skip

#: The only function that a job may call.
JOB_FUNCTION = "worker.job.run_part"
_KEEP_RESULT_S = 7 * 24 * 3600
_QUEUE_OF = {Priority.HIGH: "lmms-high", Priority.NORMAL: "lmms-normal", Priority.LOW: "lmms-low"}
_RAISE_FENCE = """
if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
return tonumber(redis.call('GET', KEYS[1]) or 0)
"""


@dataclass(frozen=True)
class Lease:
    """Who works on a part, until when (unix seconds by the queue server's clock).

    `memory` is what it holds of its one GPU, none: all of its GPUs. One that is `delivering` has given its GPUs back
    and only brings its last results in: it takes no room of the fleet.
    """

    job_id: str
    box: str
    slot: str
    gpus: tuple[str, ...]
    token: int
    expires_at: float
    memory: int | None = None
    user: str = ""
    estimated_s: float | None = None
    since: float = 0.0
    delivering: bool = False

    @staticmethod
    def from_fields(identifier: str, fields: Mapping[str, str], expires_at: float) -> Lease:
        """Read a lease's hash (decoded text); one that a worker of the version before wrote has fewer fields."""
        return Lease(
            job_id=identifier,
            box=fields["box"],
            slot=fields["slot"],
            gpus=tuple(json.loads(fields.get("gpus") or "[]")),
            token=int(fields["token"]),
            expires_at=expires_at,
            memory=int(fields["memory"]) if fields.get("memory") else None,
            user=fields.get("user", ""),
            estimated_s=float(fields["estimated_s"]) if fields.get("estimated_s") else None,
            since=float(fields.get("since") or 0.0),
            delivering=fields.get("delivering") == "1",
        )


def sound_leases(
    entries: Iterable[tuple[bytes | str, float]], hashes: Iterable[Mapping[bytes | str, bytes | str]]
) -> Iterator[Lease]:
    """The leases of `LEASES_KEY` (job and expiry) with their hashes; one that is damaged or gone is left out."""
    for (member, expires_at), fields in zip(entries, hashes, strict=True):
        with suppress(KeyError, ValueError, TypeError):
            told = {_text(name): _text(value) for name, value in fields.items()}
            yield Lease.from_fields(_text(member), told, float(expires_at))


class EvaluationQueue:
    """Enqueues parts and tells what is queued, leased and alive."""

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0) -> None:
        self._connection = QueueConnection(redis_url, timeout_s=timeout_s, decoded=False)
        self._redis = self._connection.redis
        self._answering = self._connection.answering
        self._queues = {name: Queue(name, connection=self._redis, serializer=JSONSerializer) for name in QUEUES}

    def ping(self) -> None:
        """Return when the queue server answers.

        Raises:
            UnavailableError: it does not.
        """
        with self._answering():
            self._redis.ping()

    def enqueue(self, job: Job, *, front: bool = False) -> bool:
        """Put a part into the queue of its priority; one that is already queued or leased stays as it is.

        Returns:
            Whether it was put there now.
        """
        # One at a time: the submission and the reaper may both find the part missing, and RQ's steps are several.
        lock = self._redis.lock(f"lmms:enqueue:{job.id}", timeout=10, blocking_timeout=5, sleep=0.02)
        with self._answering(), lock:
            if self._is_queued(job.id) or self._redis.exists(lease_key(job.id)):
                return False
            self._forget(job.id)
            self._write_needs([job])
            self._queues[_QUEUE_OF[job.priority]].enqueue_call(
                JOB_FUNCTION,
                args=(job.run, job.part),
                job_id=job.id,
                timeout=-1,
                result_ttl=_KEEP_RESULT_S,
                failure_ttl=_KEEP_RESULT_S,
                at_front=front,
            )
            self._redis.publish(WAKE_CHANNEL, job.id)
            return True

    def update_needs(self, jobs: Iterable[Job]) -> None:
        """Tell anew what waiting jobs need; those that no longer wait are left alone."""
        with self._answering():
            self._write_needs([job for job in jobs if self._redis.exists(need_key(job.id))])

    def _write_needs(self, jobs: list[Job]) -> None:
        with self._redis.pipeline() as pipeline:
            for job in jobs:
                fields: dict[Any, Any] = need_fields(job)
                pipeline.hset(need_key(job.id), mapping=fields)
            pipeline.incr(NEEDS_REVISION_KEY)
            pipeline.execute()

    def _is_queued(self, identifier: str) -> bool:
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in QUEUES:
                pipeline.lpos(f"rq:queue:{name}", identifier)
            return any(place is not None for place in pipeline.execute())

    def remove(self, run_id: str, part: str) -> None:
        """Take a waiting part out of its queue; one that a worker has already claimed is left to it."""
        identifier = job_id(run_id, part)
        with self._answering():
            for name in QUEUES:
                self._redis.lrem(f"rq:queue:{name}", 0, identifier)
            if not self._redis.exists(lease_key(identifier)):
                self._forget(identifier)

    def _forget(self, identifier: str) -> None:
        with suppress(NoSuchJobError):
            RqJob.fetch(identifier, connection=self._redis, serializer=JSONSerializer).delete()
        self._redis.delete(need_key(identifier))

    def queued(self) -> list[str]:
        """Ids of the waiting jobs in the order in which they would be looked at."""
        with self._answering(), self._redis.pipeline(transaction=False) as pipeline:
            for name in QUEUES:
                pipeline.lrange(f"rq:queue:{name}", 0, -1)
            return [item.decode() for items in pipeline.execute() for item in items]

    def leases(self) -> dict[str, Lease]:
        """The live leases by job id; one that has expired is not among them."""
        with self._answering(), self._redis.pipeline(transaction=False) as pipeline:
            entries: Any = self._redis.zrangebyscore(LEASES_KEY, self._connection.now(), "+inf", withscores=True)
            for member, _ in entries:
                pipeline.hgetall(lease_key(member.decode()))
            hashes = pipeline.execute()
        return {lease.job_id: lease for lease in sound_leases(entries, hashes)}

    def next_token(self, at_least: int = 0) -> int:
        """A fencing token larger than every earlier one and than `at_least`."""
        self.raise_fence(at_least)
        with self._answering():
            answer: Any = self._redis.incr(FENCE_KEY)
        return int(answer)

    def raise_fence(self, at_least: int) -> int:
        """Let no token from now on be as small as `at_least`, after the queue server may have forgotten some.

        Returns:
            The largest token that counts as given out.
        """
        with self._answering():
            answer: Any = self._redis.eval(_RAISE_FENCE, 1, FENCE_KEY, str(at_least))
        return int(answer)

    def ask_cancel(self, run_id: str) -> None:
        """Tell whoever works on the run to stop; the worker's keeper and its heartbeat read this."""
        with self._answering():
            self._redis.sadd(CANCEL_KEY, run_id)
            self._redis.publish(WAKE_CHANNEL, run_id)

    def forget_cancel(self, run_id: str) -> None:
        """Take back `ask_cancel`, for a run that is to be tried again or has ended."""
        with self._answering():
            self._redis.srem(CANCEL_KEY, run_id)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
