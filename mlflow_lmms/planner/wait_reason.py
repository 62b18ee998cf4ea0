"""Why a job waits, in words for its user."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_lmms.planner.demand import Demand, gib
from mlflow_lmms.planner.fleet import Box, BoxState, Cause, Policy, Reservation
from mlflow_lmms.planner.room import Room

_CLOSED = {
    BoxState.OPEN: "ends before the job is likely to be done",
    BoxState.PAUSED: "is paused (`mlflow-lmms fleet resume {box}`)",
    BoxState.DRAINED: "is drained (`mlflow-lmms fleet resume {box}`)",
    BoxState.OFFLINE: "is not connected",
}


def next_reason(kept: Reservation, now: float) -> str:
    """For the job that GPUs are kept for."""
    minutes = max(0, round((kept.expected_at - now) / 60))
    filled = "" if now >= kept.drain_at else "; short jobs may use them until then"
    return f"is next: {_count(len(kept.gpus))} of {kept.box} kept for it, likely free in {minutes} min{filled}"


def closed_reason(demand: Demand, boxes: Sequence[Box]) -> str:
    """For a job whose boxes all take no new work."""
    suiting = [box for box in boxes if box.name in demand.boxes]
    states = (f"{box.name} {_CLOSED[box.state].format(box=box.name)}" for box in suiting)
    return "no box that suits it takes work: " + ", ".join(states)


def busy_reason(demand: Demand, rooms: Sequence[Room], kept: Reservation | None, policy: Policy) -> tuple[Cause, str]:
    """For a job whose boxes are open, but full."""
    if demand.gpus == 0:
        return Cause.BUSY, "every slot for work without a GPU is taken"
    if kept and any(room.choose(demand) is not None for room in rooms):
        return Cause.RESERVED_FOR_OTHER, f"GPUs of {kept.box} are kept for {kept.job}, whose turn it is"
    used = [room for room in rooms if room.foreign_gpus(demand)]
    if any(room.idle_gpus >= demand.gpus for room in used):
        names = ", ".join(f"{room.foreign_gpus(demand)} of {room.box.name}" for room in used)
        return Cause.FOREIGN_USE, (
            f"idle GPUs ({names}) hold more than {policy.foreign_memory >> 20} MiB of processes outside the queue"
        )
    memory = f" with {gib(demand.memory)} free" if demand.memory else ""
    where = " on one box" if demand.gpus > 1 else ""
    return Cause.BUSY, f"waits for {_count(demand.gpus)}{memory}{where}: all that suit are taken"


def _count(gpus: int) -> str:
    return f"{gpus} GPUs" if gpus > 1 else "a GPU"
