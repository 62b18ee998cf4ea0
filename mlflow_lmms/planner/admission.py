"""The last check before a job starts: a plan may be old, its boxes closed and its GPUs taken meanwhile.

The claim in Redis makes the same check in one step with writing the lease; its tests compare it with this.
"""

from __future__ import annotations

from mlflow_lmms.planner.demand import of_type, suits
from mlflow_lmms.planner.fleet import FleetState, Policy, Start
from mlflow_lmms.planner.plan import DEFAULT, job_seconds, rooms_of


def admits(state: FleetState, start: Start, now: float, policy: Policy = DEFAULT) -> bool:
    """Whether a planned start is still sound: the job waits, the box suits and is open, each GPU has the room."""
    job = next((job for job in state.jobs if job.id == start.job), None)
    room = rooms_of(state, now, policy).get(start.box)
    if job is None or room is None or any(lease.job == start.job for lease in state.leases):
        return False
    if not room.is_open or not room.lasts_until(now + job_seconds(job, policy)):
        return False
    if len(set(start.gpus)) != job.gpus:
        return False
    if not suits(job, room.box) or not all(of_type(gpu, job) for gpu in room.box.gpus if gpu.uuid in start.gpus):
        return False
    return room.has_room(start.gpus, start.memory)
