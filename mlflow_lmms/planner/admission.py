"""The last check before a job starts: a plan may be old, its boxes closed and its GPUs taken meanwhile.

The claim in Redis makes the same check in one step with writing the lease; its tests compare it with this.
"""

from __future__ import annotations

from mlflow_lmms.planner.fleet import FleetState, Start
from mlflow_lmms.planner.plan import rooms_of


def admits(state: FleetState, start: Start) -> bool:
    """Whether a start of some plan is still sound: the job waits, the box is open, each GPU has the room."""
    job = next((job for job in state.jobs if job.id == start.job), None)
    room = rooms_of(state, 0.0).get(start.box)
    if job is None or room is None or any(lease.job == start.job for lease in state.leases):
        return False
    if not room.is_open or len(set(start.gpus)) != job.gpus:
        return False
    return room.has_room(start.gpus, start.memory)
