"""Where a job fits best: the fullest box, the tightest GPU; whole boxes stay free for those that need them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from operator import itemgetter

from mlflow_lmms.planner.demand import Demand
from mlflow_lmms.planner.room import Room


def nothing_kept(room: Room) -> Collection[str]:
    """No GPU is kept for anybody."""
    return ()


def best_place(
    demand: Demand,
    rooms: Iterable[Room],
    kept: Callable[[Room], Collection[str]] = nothing_kept,
    home: str | None = None,
) -> tuple[Room, tuple[str, ...]] | None:
    """The box and GPUs that a job should get now; None: it fits nowhere.

    Args:
        rooms: those of the boxes that suit the job and are open.
        kept: the GPUs of a box that the job must leave to another.
        home: the box that is best where the job fits there.
    """
    found: list[tuple[tuple[bool, int, int, str], Room, tuple[str, ...]]] = []
    for room in rooms:
        gpus = room.choose(demand, kept(room))
        if gpus is None:
            continue
        left = room.memory_left(gpus[0]) if gpus and room.shares(demand) else 0
        free = room.idle_gpus if gpus else -room.cpu_slots_left
        found.append(((home != room.box.name, left, free, room.box.name), room, gpus))
    return min(found, key=itemgetter(0))[1:] if found else None
