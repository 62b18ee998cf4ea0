"""The fleet as it stands in Redis: boxes, leases, what waits and why. Read only; nothing is decided here."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from mlflow_lmms.evaluation_queue import Lease
from mlflow_lmms.planner.fleet import (
    Box,
    BoxState,
    Cause,
    FleetState,
    Job,
    Quotas,
    Reservation,
    Use,
    Wait,
)
from mlflow_lmms.planner.fleet import Lease as PlannedLease
from mlflow_lmms.queue_connection import QueueConnection
from mlflow_lmms.queue_keys import (
    BOX_STATE_KEY,
    BOXES_PATTERN,
    KNOWN_BOXES_KEY,
    LEASES_KEY,
    NEEDS_REVISION_KEY,
    QUEUES,
    RESERVATION_KEY,
    WAITS_KEY,
    BoxReport,
    job_from_need,
    known_from_json,
    lease_key,
    need_key,
    quarantine_key,
    reservation_from_json,
)

#: A box that has not been seen for so long is no part of the fleet any more.
KNOWN_FOR_S = 30 * 24 * 3600
_SCAN = 1000
#: What reading an entry raises that none of our programs wrote: one of them must not stop the planning for all.
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError)
_STATES = {"paused": BoxState.PAUSED, "drained": BoxState.DRAINED}


_Entry = TypeVar("_Entry")
_Told = TypeVar("_Told")
_log = logging.getLogger(__name__)


class FleetView:
    """Reads what boxes announce and what the queue holds; an entry that cannot be read is logged and left out.

    Every method raises `UnavailableError` when the queue server does not answer.
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0) -> None:
        self._connection = QueueConnection(redis_url, timeout_s=timeout_s)
        self._redis = self._connection.redis
        self._revision: str | None = None
        self._jobs: dict[str, Job | None] = {}

    def now(self) -> float:
        """The queue server's clock, which leases and plans are timed by."""
        with self._connection.answering():
            return self._connection.now()

    def boxes(self) -> list[BoxReport]:
        """The boxes that announced themselves within the last seconds, by name."""
        with self._connection.answering():
            hashes = self._hashes(self._redis.scan_iter(BOXES_PATTERN, count=_SCAN))
        found = (_sound("box", BoxReport.from_fields, fields) for fields in hashes if fields)
        return sorted((report for report in found if report is not None), key=lambda report: report.box)

    def known(self) -> dict[str, tuple[BoxReport, float]]:
        """Every box that was seen in the last 30 days, with the time; those that are away too, and may come back."""
        with self._connection.answering():
            entries: Any = self._redis.hgetall(KNOWN_BOXES_KEY)
            now = self._connection.now()
        found = {box: _sound(f"{KNOWN_BOXES_KEY} {box}", known_from_json, text) for box, text in entries.items()}
        return {
            box: (report, seen_at)
            for box, (report, seen_at) in ((box, told) for box, told in found.items() if told is not None)
            if seen_at > now - KNOWN_FOR_S and (report.until is None or report.until > now)
        }

    def states(self) -> dict[str, str]:
        """`paused` or `drained` per box that an admin said so of."""
        with self._connection.answering():
            states: Any = self._redis.hgetall(BOX_STATE_KEY)
        return dict(states)

    def leases(self) -> dict[str, Lease]:
        """The leases by job id, those that have run out but were not swept among them: they hold their GPUs."""
        with self._connection.answering():
            entries: Any = self._redis.zrange(LEASES_KEY, 0, -1, withscores=True)
            hashes = self._hashes(lease_key(job) for job, _ in entries)
        found = {
            job: _sound(lease_key(job), partial(Lease.from_fields, job, expires_at=float(at)), fields)
            for (job, at), fields in zip(entries, hashes, strict=True)
            if fields
        }
        return {job: lease for job, lease in found.items() if lease is not None}

    def reservation(self) -> Reservation | None:
        """What GPUs are kept for whom by the last plan."""
        with self._connection.answering():
            text: Any = self._redis.get(RESERVATION_KEY)
        return _sound(RESERVATION_KEY, reservation_from_json, text) if text else None

    def waits(self) -> dict[str, Wait]:
        """Why each waiting job waits, by the last plan."""
        with self._connection.answering():
            entries: Any = self._redis.hgetall(WAITS_KEY)
        found = {job: _sound(f"{WAITS_KEY} {job}", partial(_wait, job), entries[job]) for job in entries}
        return {job: wait for job, wait in found.items() if wait is not None}

    def waiting(self) -> list[str]:
        """Ids of the waiting jobs, in the order of the queues."""
        with self._connection.answering(), self._redis.pipeline(transaction=False) as pipeline:
            for name in QUEUES:
                pipeline.lrange(f"rq:queue:{name}", 0, -1)
            return [job for jobs in pipeline.execute() for job in jobs]

    def jobs(self) -> tuple[Job, ...]:
        """What each waiting job needs; one of whose needs nothing is known is left out, the reaper queues it anew."""
        waiting = self.waiting()
        with self._connection.answering():
            revision: Any = self._redis.get(NEEDS_REVISION_KEY)
            known = self._jobs if revision == self._revision and revision is not None else {}
            missing = [job for job in waiting if job not in known]
            read = dict(zip(missing, self._hashes(map(need_key, missing)), strict=True))
        self._jobs = {job: known[job] if job in known else _job(read[job]) for job in waiting}
        self._revision = revision
        return tuple(job for job in self._jobs.values() if job is not None)

    def planned_boxes(self, states: Mapping[str, str], reports: Iterable[BoxReport] | None = None) -> tuple[Box, ...]:
        """Every known box as the planner sees it.

        Args:
            states: the admins' words.
            reports: the connected boxes, where somebody has read them already.
        """
        connected = {report.box: report for report in (self.boxes() if reports is None else reports)}
        away = {box: report for box, (report, _) in self.known().items() if box not in connected}
        quarantined = self._quarantined(gpu.uuid for report in connected.values() for gpu in report.gpus)
        return (
            *(report.for_planner(_state(report, states), quarantined) for report in connected.values()),
            *(report.for_planner(BoxState.OFFLINE) for report in away.values()),
        )

    def state(
        self,
        quotas: Quotas,
        uses: Mapping[str, Use],
        states: Mapping[str, str] | None = None,
        reports: Iterable[BoxReport] | None = None,
    ) -> FleetState:
        """All that a plan is made from; `states` and `reports` as for `planned_boxes`."""
        leases = tuple(_planned(lease) for lease in self.leases().values() if not lease.delivering)
        return FleetState(
            boxes=self.planned_boxes(self.states() if states is None else states, reports),
            jobs=self.jobs(),
            leases=leases,
            quotas=quotas,
            uses=uses,
            reservation=self.reservation(),
        )

    def _hashes(self, keys: Iterable[str]) -> list[dict[str, str]]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            return list(pipeline.execute())

    def _quarantined(self, uuids: Iterable[str]) -> frozenset[str]:
        every = list(uuids)
        with self._connection.answering(), self._redis.pipeline(transaction=False) as pipeline:
            for uuid in every:
                pipeline.exists(quarantine_key(uuid))
            return frozenset(uuid for uuid, there in zip(every, pipeline.execute(), strict=True) if there)


def _sound(name: str, read: Callable[[_Entry], _Told], entry: _Entry) -> _Told | None:
    try:
        return read(entry)
    except _DAMAGED as error:
        _log.warning("the queue server's entry %s cannot be read and is left out: %r", name, error)
        return None


def _wait(job: str, text: str) -> Wait:
    told = json.loads(text)
    return Wait(job, Cause(told["cause"]), told["reason"])


def _job(fields: Mapping[str, str]) -> Job | None:
    return _sound("what a job needs", job_from_need, fields) if fields else None


def _state(report: BoxReport, states: Mapping[str, str]) -> BoxState:
    """An admin's word stands above the box's own: one that drains itself takes no work and finishes what runs."""
    said = _STATES.get(states.get(report.box, ""))
    return said or (BoxState.OPEN if report.state == "open" else BoxState.PAUSED)


def _planned(lease: Lease) -> PlannedLease:
    return PlannedLease(lease.job_id, lease.user, lease.box, lease.gpus, lease.since, lease.estimated_s, lease.memory)
