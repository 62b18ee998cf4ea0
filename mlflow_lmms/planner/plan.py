"""The plan: which jobs start now and where, for whom GPUs are kept, and why the rest waits.

The first job in turn that finds no place gets the one reservation, on the GPUs that are likely to be free first.
Others may fill them while they are likely to be done in time; after a while nobody may, so that the job's wait does
not depend on estimates or on what arrives. A plan is advice: who starts a job checks it again (`admission`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter

from mlflow_lmms.planner.demand import Demand, demand_of, shape
from mlflow_lmms.planner.fair_share import Turns
from mlflow_lmms.planner.fleet import (
    Cause,
    FleetState,
    Job,
    Lease,
    Plan,
    Policy,
    Reservation,
    Start,
    Wait,
)
from mlflow_lmms.planner.placement import best_place
from mlflow_lmms.planner.quota_check import QuotaCheck
from mlflow_lmms.planner.room import Room
from mlflow_lmms.planner.wait_reason import busy_reason, closed_reason, next_reason

DEFAULT = Policy()
_NEVER_TRIED = float("inf")


def rooms_of(state: FleetState, now: float, policy: Policy = DEFAULT) -> dict[str, Room]:
    """What is left of each box."""
    leases: dict[str, list[Lease]] = defaultdict(list)
    for lease in state.leases:
        leases[lease.box].append(lease)
    return {box.name: Room(box, leases[box.name], now, policy) for box in state.boxes}


def suitable_rooms(rooms: Mapping[str, Room], demand: Demand, end: float) -> list[Room]:
    """What is left of the open boxes that suit a job and are there until its likely end."""
    return [room for name, room in rooms.items() if name in demand.boxes and room.is_open and room.lasts_until(end)]


def job_seconds(job: Job, policy: Policy) -> float:
    """How long a job is likely to run."""
    return policy.default_estimate_s if job.estimated_s is None else job.estimated_s


def plan(state: FleetState, now: float, policy: Policy = DEFAULT) -> Plan:
    """What to do now. The same state and time always give the same plan."""
    return _Planning(state, now, policy).run()


@dataclass(slots=True)
class _Fit:
    """What jobs of one shape take, the open boxes that suit them, and what this plan has found out about them."""

    demand: Demand
    rooms: list[Room]
    too_long: float = _NEVER_TRIED
    busy: tuple[Cause, str] | None = None


class _Planning:
    def __init__(self, state: FleetState, now: float, policy: Policy) -> None:
        leased = {lease.job for lease in state.leases}
        self._state, self._now, self._policy = state, now, policy
        self._jobs = {job.id: job for job in state.jobs if job.id not in leased}
        self._rooms = rooms_of(state, now, policy)
        self._quotas = QuotaCheck(state.quotas, state.uses, state.leases, now, policy)
        self._turns = Turns(self._jobs, state.leases, state.uses, now, policy)
        self._fits: dict[Hashable, _Fit] = {}
        self._starts: dict[str, Start] = {}
        self._kept: Reservation | None = None
        self._nothing_to_keep = False
        self._some_box_ends = any(box.ends_at is not None for box in state.boxes)

    def run(self) -> Plan:
        self._go_on_with(self._state.reservation)
        waits = []
        for identifier, job in self._turns:
            if identifier not in self._starts and (wait := self._consider(identifier, job)):
                waits.append(wait)
        return Plan(tuple(self._starts.values()), self._kept, tuple(waits))

    def _go_on_with(self, earlier: Reservation | None) -> None:
        """The job of the last reservation comes first, and keeps its GPUs if it cannot start."""
        job = self._jobs.get(earlier.job) if earlier else None
        if not earlier or not job:
            return
        fit = self._fit(job)
        if fit.demand.impossible or self._quotas.refusal(job, self._now):
            return
        if self._started(earlier.job, job, fit):
            self._reserve_next()  # before others fill what has been drained
            return
        room = next((room for room in fit.rooms if room.box.name == earlier.box), None)
        if room and room.can_keep(earlier.gpus, fit.demand):
            expected = room.available_at(earlier.gpus, fit.demand, self._now)
            self._keep(job, replace(earlier, expected_at=expected))
        else:
            self._reserve(earlier.job, job, fit, earlier.since)

    def _consider(self, identifier: str, job: Job) -> Wait | None:
        """Start the job, or tell why it waits."""
        if self._kept and self._kept.job == identifier:
            return Wait(identifier, Cause.NEXT, next_reason(self._kept, self._now))
        fit = self._fit(job)
        if fit.demand.impossible:
            return Wait(identifier, Cause.NEVER_FITS if self._state.boxes else Cause.NO_BOX, fit.demand.impossible)
        if refusal := self._quotas.refusal(job, self._now):
            return Wait(identifier, Cause.QUOTA, refusal)
        if not fit.rooms:
            return Wait(identifier, Cause.BOXES_CLOSED, closed_reason(fit.demand, self._state.boxes))
        if self._started(identifier, job, fit):
            return None
        if self._kept is None and not self._nothing_to_keep:
            self._reserve_next()
            return self._consider(identifier, job)
        if fit.busy is None:
            fit.busy = busy_reason(fit.demand, fit.rooms, self._kept, self._policy)
        return Wait(identifier, *fit.busy)

    def _reserve_next(self) -> None:
        """Some job found no place: keep GPUs for the one that needs it most."""
        for identifier, job in self._turns.largest_first():
            fit = self._fit(job)
            if identifier in self._starts or not fit.rooms or self._quotas.refusal(job, self._now):
                continue
            if not self._started(identifier, job, fit) and self._reserve(identifier, job, fit, self._now):
                return
        self._nothing_to_keep = True

    def _fit(self, job: Job) -> _Fit:
        end = self._now + job_seconds(job, self._policy)
        key = (shape(job), end) if self._some_box_ends else shape(job)
        if key not in self._fits:
            demand = demand_of(job, self._state.boxes)
            self._fits[key] = _Fit(demand, suitable_rooms(self._rooms, demand, end))
        return self._fits[key]

    def _started(self, identifier: str, job: Job, fit: _Fit) -> bool:
        """Start the job where it fits best; room only shrinks in a plan, so what did not fit is not tried again."""
        seconds = job_seconds(job, self._policy)
        if seconds >= fit.too_long:
            return False
        rooms = fit.rooms if fit.too_long == _NEVER_TRIED else self._fillable(fit, seconds)
        place = best_place(fit.demand, rooms, lambda room: self._kept_from(room, seconds), job.home)
        if place is None:
            fit.too_long = seconds
            return False
        room, gpus = place
        memory = fit.demand.memory if room.shares(fit.demand) else None
        room.take(gpus, memory, self._now + seconds)
        self._quotas.take(job)
        self._turns.charge(job.user, self._quotas.hours(job))
        self._starts[identifier] = Start(identifier, room.box.name, gpus, memory)
        return True

    def _fillable(self, fit: _Fit, seconds: float) -> list[Room]:
        """Where a job may fit that is shorter than one of its shape that did not: on GPUs kept for another."""
        kept = self._kept
        return [room for room in fit.rooms if kept and room.box.name == kept.box and self._fills(kept, seconds)]

    def _fills(self, kept: Reservation, seconds: float) -> bool:
        """Whether a job of such length may use kept GPUs in the meantime."""
        return self._now < kept.drain_at and self._now + seconds <= kept.expected_at

    def _kept_from(self, room: Room, seconds: float) -> tuple[str, ...]:
        """The GPUs of a box that a job of such length must leave to the one whose turn it is."""
        kept = self._kept
        if kept is None or kept.box != room.box.name:
            return ()
        return () if self._fills(kept, seconds) else kept.gpus

    def _reserve(self, identifier: str, job: Job, fit: _Fit, since: float) -> bool:
        """Keep the GPUs for the job that are likely to be free first."""
        if job.gpus == 0:  # all slots are alike: the next one that is free is the job's
            return False
        options = [
            (*earliest, room.box.name) for room in fit.rooms if (earliest := room.earliest(fit.demand, self._now))
        ]
        if not options:
            return False
        expected, gpus, box = min(options, key=itemgetter(0, 2))
        self._keep(job, Reservation(identifier, box, gpus, since, since + self._policy.drain_s, expected))
        return True

    def _keep(self, job: Job, reservation: Reservation) -> None:
        self._kept = reservation
        self._quotas.take(job)
