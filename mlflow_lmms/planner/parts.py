"""Cutting a run's tasks into parts, so that slots which would stay idle work on it too. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow_lmms.planner.demand import demand_of
from mlflow_lmms.planner.fleet import FleetState, Job, Lease, Plan, Policy, Quotas
from mlflow_lmms.planner.placement import best_place
from mlflow_lmms.planner.plan import DEFAULT, job_seconds, rooms_of, suitable_rooms

#: Every part loads the model again: a further one must shorten the run by at least this share of it.
_WORTH = 0.05


def idle_places(state: FleetState, made: Plan, job: Job, now: float, policy: Policy = DEFAULT) -> int:
    """How many more jobs like `job` could start now, beside all that the plan starts and keeps GPUs for."""
    users = {waiting.id: waiting for waiting in state.jobs}
    started = tuple(
        Lease(
            start.job, users[start.job].user, start.box, start.gpus, now, users[start.job].estimated_s, start.memory
        )
        for start in made.starts
    )
    state = replace(state, leases=(*state.leases, *started), reservation=None)
    demand = demand_of(job, state.boxes)
    rooms = suitable_rooms(rooms_of(state, now, policy), demand, now + job_seconds(job, policy))
    kept = made.reservation
    places, most = 0, _gpus_left(state.leases, state.quotas, job)
    while places * job.gpus < most:
        place = best_place(demand, rooms, lambda room: kept.gpus if kept and kept.box == room.box.name else ())
        if place is None:
            return places
        room, gpus = place
        room.take(gpus, demand.memory if room.shares(demand) else None, now)
        places += 1
    return places


def _gpus_left(leases: Sequence[Lease], quotas: Quotas, job: Job) -> float:
    most = quotas.of(job.user).gpus
    held = sum(len(lease.gpus) for lease in leases if lease.user == job.user)
    return float("inf") if most is None else max(0, most - held - job.gpus + 1)


def cut_into_parts(seconds: Mapping[str, float], places: int, load_s: float) -> tuple[tuple[str, ...], ...]:
    """The run's tasks as parts, each for one of `places` idle places; the tasks of a part stay in the run's order.

    As few parts as make the run nearly as short as it can be: loading a model over and over uses GPUs for nothing.

    Args:
        seconds: how long each task is likely to take, in the run's order.
        load_s: how long it takes to load the model, once per part.
    """
    best = _packed(seconds, 1)
    for count in range(2, min(places, len(seconds)) + 1):
        parts = _packed(seconds, count)
        if _longest(parts, seconds) + load_s < (1 - _WORTH) * (_longest(best, seconds) + load_s):
            best = parts
    order = {task: position for position, task in enumerate(seconds)}
    sorted_parts = (tuple(sorted(part, key=order.__getitem__)) for part in best if part)
    return tuple(sorted(sorted_parts, key=lambda part: order[part[0]]))


def _packed(seconds: Mapping[str, float], count: int) -> list[list[str]]:
    """Longest task first, each to the part that has least: at most 4/3 of the shortest possible (Graham 1969)."""
    heap: list[tuple[float, int]] = [(0.0, part) for part in range(count)]
    parts: list[list[str]] = [[] for _ in range(count)]
    for task in sorted(seconds, key=lambda task: (-seconds[task], task)):
        had, part = heapq.heappop(heap)
        parts[part].append(task)
        heapq.heappush(heap, (had + seconds[task], part))
    return parts


def _longest(parts: Sequence[Sequence[str]], seconds: Mapping[str, float]) -> float:
    return max(sum(seconds[task] for task in part) for part in parts)
