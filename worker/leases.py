"""Leases of jobs and GPUs: claim, renew, release, sweep. The only writer of leases; one Lua script each.

A lease names the job, the box and slot that work on it, the GPUs, and a fencing token that grows with every claim.
It runs out after its TTL unless it is renewed, by the clock of Redis. What a job does is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import redis
from rq.defaults import RQ_KEY_PREFIX

from mlflow_lmms.evaluation_queue import CANCEL_KEY, FENCE_KEY, LEASES_KEY, QUEUES, Lease, lease_key
from worker import lease_scripts

_QUEUE_KEYS = [f"{RQ_KEY_PREFIX}:queue:{name}" for name in QUEUES]
_KEYS = [LEASES_KEY, FENCE_KEY, CANCEL_KEY, *_QUEUE_KEYS]
_JOB_PREFIX = f"{RQ_KEY_PREFIX}:job:"


@dataclass(frozen=True)
class Slot:
    """A place on a box where one part at a time runs; `gpus` are the GPUs that it may choose from."""

    box: str
    name: str
    fewest_gpus: int = 0
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A job that a slot has claimed, with its token and GPUs."""

    job_id: str
    queue_key: str
    token: int
    gpus: tuple[str, ...]
    box: str
    slot: str

    @property
    def mark(self) -> str:
        """What marks this lease's processes in their environment; no other lease of any fleet has the same."""
        return mark(self.job_id, self.token)


class Renewal(IntEnum):
    """Answer to the renewal of a lease."""

    LOST = 0
    KEPT = 1
    CANCEL = 2


def mark(job_id: str, token: int) -> str:
    """The mark of a lease's processes (`process_tree.LEASE_VARIABLE`)."""
    return f"{job_id}#{token}"


class LeaseBook:
    """Writes leases through one Redis connection; errors of Redis pass through as `redis.RedisError`."""

    def __init__(self, connection: redis.Redis, ttl_s: float) -> None:
        self._redis = connection
        self.ttl_s = ttl_s
        self._claim = connection.register_script(lease_scripts.CLAIM)
        self._renew = connection.register_script(lease_scripts.RENEW)
        self._release = connection.register_script(lease_scripts.RELEASE)
        self._finish = connection.register_script(lease_scripts.FINISH)
        self._raise_fence = connection.register_script(lease_scripts.RAISE_FENCE)

    def claim(self, slot: Slot, first: Sequence[str] = ()) -> Claim | None:
        """Claim the first waiting job that fits the slot, with the GPUs that it needs; None: there is none.

        Args:
            first: jobs that come before all others, because results of them lie on this box.
        """
        wanted = (slot.fewest_gpus, len(slot.gpus), json.dumps(slot.gpus))
        arguments = (slot.box, slot.name, *wanted, self.ttl_s, _JOB_PREFIX, json.dumps(list(first)))
        return _claim(self._claim(_KEYS, arguments), slot)

    def renew(self, claim: Claim) -> Renewal:
        """Keep the lease for another TTL. Never call it later than a TTL after the last time, or after `release`."""
        holder = [claim.box, claim.slot, json.dumps(claim.gpus), claim.queue_key]
        answer: Any = self._renew(_KEYS, [claim.job_id, claim.token, self.ttl_s, *holder])
        return Renewal(int(answer))

    def finish(self, claim: Claim) -> None:
        """Note that the server has taken over from here: on release the job does not go back to its queue."""
        self._finish(_KEYS, [claim.job_id, claim.token])

    def release(self, job_id: str, token: int) -> bool:
        """Give the lease up if the token is still its own; True when the job waits in its queue again."""
        answer: Any = self._release(_KEYS, [job_id, token, _JOB_PREFIX, "0"])
        return int(answer) == 2

    def drop_expired(self, lease: Lease) -> bool:
        """Release a lease of somebody else that has expired; False when it has been renewed or released meanwhile."""
        answer: Any = self._release(_KEYS, [lease.job_id, lease.token, _JOB_PREFIX, "1"])
        return int(answer) > 0

    def raise_fence(self, least: int) -> None:
        """Let the next token be larger than `least`."""
        self._raise_fence(_KEYS, [least])

    def all(self) -> list[Lease]:
        """Every lease that has not been released or swept, expired ones included."""
        entries: Any = self._redis.zrange(LEASES_KEY, 0, -1, withscores=True)
        found = []
        for member, score in entries:
            fields: Any = self._redis.hmget(lease_key(_text(member)), "box", "slot", "gpus", "token")
            if all(field is not None for field in fields):
                box, slot, gpus, token = (_text(field) for field in fields)
                devices = tuple(json.loads(gpus))
                found.append(Lease(_text(member), box, slot, devices, int(token), float(score)))
        return found

    def now(self) -> float:
        """The time of Redis, in unix seconds."""
        answer: Any = self._redis.time()
        return int(answer[0]) + int(answer[1]) / 1e6


def _claim(answer: Any, slot: Slot) -> Claim | None:
    if not answer:
        return None
    job_id, queue_key, token, gpus = answer
    devices: Sequence[str] = json.loads(_text(gpus))
    return Claim(_text(job_id), _text(queue_key), int(token), tuple(devices), slot.box, slot.name)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
