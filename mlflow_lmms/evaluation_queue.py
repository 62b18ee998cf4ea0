"""The queue of evaluation parts: RQ on Redis, jobs as JSON with ids only, and a view of leases and boxes.

Truth about an evaluation lies in the evaluation tables; the queue holds order. Leases are written by the worker's
Lua scripts alone; here they are only read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.queue_keys import (
    BOXES_PATTERN,
    CANCEL_KEY,
    FENCE_KEY,
    LEASES_KEY,
    QUEUES,
    WAKE_CHANNEL,
    box_key,
    job_id,
    lease_key,
    need_key,
    split_job_id,
)
from mlflow_lmms.settings import mask_password

__all__ = [
    "CANCEL_KEY",
    "FENCE_KEY",
    "JOB_FUNCTION",
    "LEASES_KEY",
    "QUEUES",
    "WAKE_CHANNEL",
    "Box",
    "EvaluationQueue",
    "Lease",
    "box_key",
    "job_id",
    "lease_key",
    "need_key",
    "split_job_id",
]

#: The only function that a job may call.
JOB_FUNCTION = "worker.job.run_part"
_KEEP_RESULT_S = 7 * 24 * 3600


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


@dataclass(frozen=True)
class Box:
    """One box of the fleet as it announced itself in the last seconds."""

    name: str
    cpu_slots: int
    gpu_slots: int
    gpus: tuple[dict[str, Any], ...]
    version: str
    protocol: int
    environments: tuple[str, ...]

    def can_run(self, gpus: int) -> bool:
        """Whether the box has the slots for a part that needs so many GPUs."""
        return self.cpu_slots > 0 if gpus == 0 else self.gpu_slots > 0 and len(self.gpus) >= gpus


class EvaluationQueue:
    """Enqueues parts and tells what is queued, leased and alive."""

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0) -> None:
        self._address = mask_password(redis_url)
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        self._queues = {name: Queue(name, connection=self._redis, serializer=JSONSerializer) for name in QUEUES}

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise UnavailableError(
                f"the queue server at {self._address} does not answer ({error}): start it, or correct "
                "MLFLOW_LMMS_REDIS_URL; `mlflow-lmms doctor` checks it"
            ) from None

    def ping(self) -> None:
        """Return when the queue server answers.

        Raises:
            UnavailableError: it does not.
        """
        with self._answering():
            self._redis.ping()

    def enqueue(self, run_id: str, part: str, priority: str, gpus: int, *, front: bool = False) -> None:
        """Put a part into its queue; one that is already queued or leased stays as it is."""
        identifier = job_id(run_id, part)
        # One at a time: the submission and the reaper may both find the part missing, and RQ's steps are several.
        lock = self._redis.lock(f"lmms:enqueue:{identifier}", timeout=10, blocking_timeout=5, sleep=0.02)
        with self._answering(), lock:
            if identifier in self.queued() or self._redis.exists(lease_key(identifier)):
                return
            self._forget(identifier)
            self._redis.hset(need_key(identifier), mapping={"gpus": gpus})
            self._queues[f"lmms-{priority}"].enqueue_call(
                JOB_FUNCTION,
                args=(run_id, part),
                job_id=identifier,
                timeout=-1,
                result_ttl=_KEEP_RESULT_S,
                failure_ttl=_KEEP_RESULT_S,
                at_front=front,
                meta={"gpus": gpus},
            )
            self._redis.publish(WAKE_CHANNEL, identifier)

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
            Job.fetch(identifier, connection=self._redis, serializer=JSONSerializer).delete()
        self._redis.delete(need_key(identifier))

    def queued(self) -> list[str]:
        """Ids of the waiting jobs in the order in which they would be looked at."""
        with self._answering():
            return [_text(item) for name in QUEUES for item in self._list(f"rq:queue:{name}")]

    def _list(self, key: str) -> list[bytes]:
        items: Any = self._redis.lrange(key, 0, -1)
        return list(items)

    def leases(self) -> dict[str, Lease]:
        """The live leases by job id; one that has expired is not among them."""
        with self._answering():
            now = self._now()
            entries: Any = self._redis.zrangebyscore(LEASES_KEY, now, "+inf", withscores=True)
            found = [(_text(member), float(score)) for member, score in entries]
            hashes: list[Any] = [self._redis.hgetall(lease_key(identifier)) for identifier, _ in found]
        return {
            identifier: _lease(identifier, fields, score)
            for (identifier, score), fields in zip(found, hashes, strict=True)
            if fields
        }

    def _now(self) -> float:
        answer: Any = self._redis.time()
        return float(answer[0]) + float(answer[1]) / 1e6

    def boxes(self) -> list[Box]:
        """The boxes that announced themselves within the last seconds."""
        with self._answering():
            hashes: list[Any] = [self._redis.hgetall(key) for key in self._redis.scan_iter(BOXES_PATTERN)]
        return sorted((_box(fields) for fields in hashes if fields), key=lambda box: box.name)

    def next_token(self, at_least: int = 0) -> int:
        """A fencing token larger than every earlier one and than `at_least`."""
        with self._answering():
            answer: Any = self._redis.incr(FENCE_KEY)
            token = int(answer)
            if token <= at_least:
                self._redis.set(FENCE_KEY, at_least + 1)
                token = at_least + 1
        return token

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


def _decoded(fields: dict[Any, Any]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in fields.items()}


def _lease(identifier: str, raw: dict[Any, Any], expires_at: float) -> Lease:
    fields = _decoded(raw)
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


def _box(raw: dict[Any, Any]) -> Box:
    fields = _decoded(raw)
    return Box(
        name=fields["box"],
        cpu_slots=int(fields.get("cpu_slots", 0)),
        gpu_slots=int(fields.get("gpu_slots", 0)),
        gpus=tuple(json.loads(fields.get("gpus") or "[]")),
        version=fields.get("version", ""),
        protocol=int(fields.get("protocol", 0)),
        environments=tuple(json.loads(fields.get("environments") or "[]")),
    )
