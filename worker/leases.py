"""Leases of jobs and GPUs: claim, renew, release, sweep. The only writer of leases; one Lua script each.

A lease names the job, the box and slot that work on it, the GPUs, and a fencing token that grows with every claim.
It runs out after its TTL unless it is renewed, by the clock of Redis. What a job does is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import redis
from rq.defaults import RQ_KEY_PREFIX

from mlflow_lmms.evaluation_queue import Lease, sound_leases
from mlflow_lmms.planner.plan import DEFAULT
from mlflow_lmms.queue_keys import (
    LEASES_KEY,
    PLAN_FRESH_S,
    QUARANTINE_S,
    WAKE_CHANNEL,
    lease_key,
    quarantine_key,
)
from worker import lease_scripts

_KEYS = lease_scripts.KEYS
_JOB_PREFIX = f"{RQ_KEY_PREFIX}:job:"


@dataclass(frozen=True)
class Slot:
    """A place on a box where one part at a time runs: one that needs GPUs, or one that needs none.

    What the box has is told by its announcement alone (`mlflow_lmms.queue_keys.BoxReport`).
    """

    box: str
    name: str
    with_gpus: bool = False


@dataclass(frozen=True)
class Claim:
    """A job that a slot has claimed, with its token and GPUs, and all else that its lease holds.

    `memory` is what it has of its one GPU, none: all of its GPUs; `expires_at` is by the queue server's clock.
    """

    job_id: str
    queue_key: str
    token: int
    gpus: tuple[str, ...]
    box: str
    slot: str
    memory: int | None = None
    user: str = ""
    estimated_s: float | None = None
    since: float = 0.0
    expires_at: float = 0.0
    delivering: bool = False

    @property
    def mark(self) -> str:
        """What marks this lease's processes in their environment; no other lease of any fleet has the same."""
        return mark(self.job_id, self.token)


class Renewal(IntEnum):
    """Answer to the renewal of a lease."""

    LOST = 0
    KEPT = 1
    CANCEL = 2
    GIVE_BACK = 3


class Renewed(NamedTuple):
    """Answer to the renewal of a lease, whether it has given its GPUs back meanwhile, and until when it holds."""

    answer: Renewal
    delivering: bool
    expires_at: float


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
        self._free_gpus = connection.register_script(lease_scripts.FREE_GPUS)
        self._raise_fence = connection.register_script(lease_scripts.RAISE_FENCE)

    def claim(self, slot: Slot, first: Sequence[str] = ()) -> Claim | None:
        """Claim the job that the plan has for the box, or without a plan the first that fits; None: there is none.

        Args:
            first: jobs that come before all others when there is no plan, because results of them lie on this box.
        """
        answer: Any = self._claim(
            _KEYS,
            [
                *(slot.box, slot.name, int(slot.with_gpus), self.ttl_s, _JOB_PREFIX, json.dumps(list(first))),
                *(DEFAULT.foreign_memory, PLAN_FRESH_S, DEFAULT.default_estimate_s),
            ],
        )
        return _claimed(answer, slot, self.ttl_s)

    def renew(self, claim: Claim) -> Renewed:
        """Keep the lease for another TTL; one that was released, or is older than `claim.expires_at`, is lost."""
        holder = [claim.box, claim.slot, "[]" if claim.delivering else json.dumps(claim.gpus), claim.queue_key]
        facts = ["" if claim.memory is None or claim.delivering else claim.memory, claim.user]
        estimate = "" if claim.estimated_s is None else claim.estimated_s
        times = [estimate, claim.since, int(claim.delivering), claim.expires_at]
        answer: Any = self._renew(_KEYS, [claim.job_id, claim.token, self.ttl_s, *holder, *facts, *times])
        return Renewed(Renewal(int(answer[0])), bool(answer[1]), float(answer[2]))

    def finish(self, claim: Claim) -> None:
        """Note that the server has taken over from here: on release the job does not go back to its queue."""
        self._finish(_KEYS, [claim.job_id, claim.token])

    def free_gpus(self, claim: Claim) -> None:
        """Give the GPUs back while the last results are delivered; no process may use them any more."""
        self._free_gpus(_KEYS, [claim.job_id, claim.token, WAKE_CHANNEL])

    def quarantine(self, gpus: Iterable[str]) -> None:
        """Let nobody be given these GPUs for a while: processes of others were found on them."""
        with self._redis.pipeline() as pipeline:
            for uuid in gpus:
                pipeline.set(quarantine_key(uuid), 1, ex=QUARANTINE_S)
            pipeline.execute()

    def release(self, job_id: str, token: int) -> bool:
        """Give the lease up if the token is still its own; True when the job waits in its queue again."""
        answer: Any = self._release(_KEYS, [job_id, token, _JOB_PREFIX, "0", WAKE_CHANNEL])
        return int(answer) == 2

    def drop_expired(self, lease: Lease) -> bool:
        """Release a lease of somebody else that has expired; False when it has been renewed or released meanwhile."""
        answer: Any = self._release(_KEYS, [lease.job_id, lease.token, _JOB_PREFIX, "1", WAKE_CHANNEL])
        return int(answer) > 0

    def raise_fence(self, least: int) -> None:
        """Let the next token be larger than `least`."""
        self._raise_fence(_KEYS, [least])

    def all(self) -> list[Lease]:
        """Every lease that has not been released or swept, expired ones included; a damaged one is left out."""
        entries: Any = self._redis.zrange(LEASES_KEY, 0, -1, withscores=True)
        with self._redis.pipeline(transaction=False) as pipeline:
            for member, _ in entries:
                pipeline.hgetall(lease_key(_text(member)))
            hashes = pipeline.execute()
        return list(sound_leases(entries, hashes))

    def now(self) -> float:
        """The time of Redis, in unix seconds."""
        answer: Any = self._redis.time()
        return int(answer[0]) + int(answer[1]) / 1e6


def _claimed(answer: Any, slot: Slot, ttl_s: float) -> Claim | None:
    if not answer:
        return None
    words = [_text(part) for part in answer]
    job_id, queue_key, token, gpus, memory, user, estimated_s, since = words
    return Claim(
        job_id=job_id,
        queue_key=queue_key,
        token=int(token),
        gpus=tuple(json.loads(gpus)),
        box=slot.box,
        slot=slot.name,
        memory=int(memory) if memory else None,
        user=user,
        estimated_s=float(estimated_s) if estimated_s else None,
        since=float(since),
        expires_at=float(since) + ttl_s,
    )


def _text(value: bytes | str | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
