"""The fleet as one caller may see it: boxes, GPUs, who holds them, the queue with reasons. For API and page.

Of runs that the caller may not read it is told that they are there, and neither which nor whose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow_lmms.box_admin import BoxWord
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_queue import Lease
from mlflow_lmms.planner.fleet import BoxState, Job, Reservation, Wait
from mlflow_lmms.protocol import box_warning
from mlflow_lmms.queue_keys import BoxReport, GpuReport, split_job_id
from mlflow_lmms.services import Services

_JOB = re.compile(r"\b[0-9a-f]{32}-\w+")
_DRAINING = "draining"


@dataclass(frozen=True)
class RunName:
    """A part of a run, by name; all None: the caller may not read it."""

    run_id: str | None = None
    part: str | None = None
    name: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class LeaseStatus:
    """A part at work. `memory` in bytes is what it holds of a shared GPU; None: its GPUs are its own."""

    run: RunName
    box: str
    slot: str
    gpus: tuple[str, ...]
    memory: int | None
    since: float | None
    estimated_s: float | None


@dataclass(frozen=True)
class QueuedStatus:
    """A part that waits, and why; `place` 1 is next."""

    run: RunName
    place: int
    gpus: int
    priority: str
    queued_at: float
    cause: str | None
    reason: str | None


@dataclass(frozen=True)
class ReservationStatus:
    """GPUs kept for the part whose turn it is; nobody else may use them from `drain_at` on."""

    run: RunName
    box: str
    gpus: tuple[str, ...]
    since: float
    drain_at: float
    expected_at: float


@dataclass(frozen=True)
class BoxStatus:
    """One box; `state` is open, paused, draining, drained or offline, `changed_by` who said so."""

    name: str
    state: str
    reason: str
    changed_by: str | None
    changed_at: float | None
    seen_at: float | None
    version: str
    protocol: int
    warning: str | None
    cpu_slots: int
    gpu_slots: int
    labels: tuple[str, ...]
    environments: tuple[str, ...]
    shares_gpus: bool
    until: float | None
    gpus: tuple[GpuReport, ...]


@dataclass(frozen=True)
class FleetStatus:
    """The whole fleet at one moment (`at`, unix seconds)."""

    at: float
    boxes: tuple[BoxStatus, ...]
    leases: tuple[LeaseStatus, ...]
    queue: tuple[QueuedStatus, ...]
    reservation: ReservationStatus | None


class _Names:
    """Who is behind a job, for one caller."""

    def __init__(self, unfinished: Iterable[Evaluation], readable: frozenset[str] | None) -> None:
        self._evaluations = {found.run_id: found for found in unfinished}
        self._readable = readable

    def of(self, job: str) -> RunName:
        run_id, part = split_job_id(job)
        found = self._evaluations.get(run_id)
        if found is None:
            return RunName(run_id, part) if self._readable is None else RunName()
        if self._readable is not None and found.experiment_id not in self._readable:
            return RunName()
        return RunName(run_id, part, found.name, found.created_by)

    def told(self, reason: str) -> str:
        """A reason with names in place of job ids."""
        return _JOB.sub(lambda match: self.of(match[0]).name or "another evaluation", reason)


def without_names(reason: str) -> str:
    """A reason to wait that names no other run."""
    return _JOB.sub("another evaluation", reason)


def fleet_status(core: Services, readable: frozenset[str] | None, *, version: str, now: float) -> FleetStatus:
    """The fleet as somebody sees it who may read these experiments (None: all).

    Raises:
        UnavailableError: the queue server does not answer.
    """
    names = _Names(core.store.unfinished(), readable)
    leases = core.fleet.leases()
    waits = core.fleet.waits()
    kept = core.fleet.reservation()
    return FleetStatus(
        at=now,
        boxes=_boxes(core, version, now),
        leases=tuple(_lease(names, job, lease) for job, lease in leases.items()),
        queue=tuple(_queue(names, core.fleet.jobs(), waits)),
        reservation=None if kept is None else _reservation(names, kept),
    )


def _boxes(core: Services, version: str, now: float) -> tuple[BoxStatus, ...]:
    words = core.box_admin.states()
    here = {report.box: report for report in core.fleet.boxes()}
    known = core.fleet.known()
    found = [box_status(report, now, words.get(name), version, here=True) for name, report in here.items()]
    for name, (report, seen_at) in known.items():
        if name not in here:
            found.append(box_status(report, seen_at, words.get(name), version, here=False))
    return tuple(sorted(found, key=lambda box: box.name))


def box_status(report: BoxReport, seen_at: float, word: BoxWord | None, version: str, *, here: bool) -> BoxStatus:
    """A box's own report and an administrator's word as one status."""
    said = BoxState(word.state) if word is not None else BoxState.OPEN
    state: str = said
    if not here:
        state = BoxState.OFFLINE
    elif said is BoxState.OPEN and report.state != BoxState.OPEN:
        state = _DRAINING
    return BoxStatus(
        name=report.box,
        state=str(state),
        reason=word.reason if word is not None else "",
        changed_by=word.changed_by if word is not None else None,
        changed_at=word.changed_at if word is not None else None,
        seen_at=seen_at,
        version=report.version,
        protocol=report.protocol,
        warning=box_warning(report.protocol, report.version, version) if here else None,
        cpu_slots=report.cpu_slots,
        gpu_slots=report.gpu_slots,
        labels=tuple(sorted(report.labels)),
        environments=tuple(sorted(report.environments)),
        shares_gpus=report.shares_gpus,
        until=report.until,
        gpus=report.gpus,
    )


def _lease(names: _Names, job: str, lease: Lease) -> LeaseStatus:
    since = lease.since or None
    return LeaseStatus(names.of(job), lease.box, lease.slot, lease.gpus, lease.memory, since, lease.estimated_s)


def _queue(names: _Names, waiting: Iterable[Job], waits: Mapping[str, Wait]) -> Iterable[QueuedStatus]:
    for place, job in enumerate(waiting, start=1):
        run, wait = names.of(job.id), waits.get(job.id)
        yield QueuedStatus(
            run=run,
            place=place,
            gpus=job.gpus,
            priority=job.priority.name.lower(),
            queued_at=job.queued_at,
            cause=str(wait.cause) if wait else None,
            # Of another's run the reason could tell whose it is.
            reason=names.told(wait.reason) if wait and run.run_id else None,
        )


def _reservation(names: _Names, kept: Reservation) -> ReservationStatus:
    return ReservationStatus(names.of(kept.job), kept.box, kept.gpus, kept.since, kept.drain_at, kept.expected_at)
