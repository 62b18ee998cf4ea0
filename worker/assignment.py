"""What the process that runs a part was given by the slot that forked it: the claim, the settings, the stop flag.

Set once in the forked process, before the job's function is called; RQ hands that function ids alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_lmms.errors import ConflictError
from mlflow_lmms.settings import Settings
from worker.leases import Claim
from worker.stop_request import StopFlag
from worker.warm_start import WarmStart


@dataclass(frozen=True)
class Assignment:
    """The lease under which this process works, the flag that tells it to stop, and how its runner may start warm."""

    claim: Claim
    settings: Settings
    stop: StopFlag
    warm: WarmStart | None = None


_current: list[Assignment] = []


def assign(assignment: Assignment) -> None:
    """Note what this process works on."""
    _current[:] = [assignment]


def assigned(job_id: str) -> Assignment:
    """What this process works on.

    Raises:
        ConflictError: it is no slot's process, or works on another job.
    """
    if not _current or _current[0].claim.job_id != job_id:
        raise ConflictError(
            f"job {job_id} was started without a lease: run it with `mlflow-lmms worker` or "
            "`rq worker -w worker.GpuWorker -j worker.SafeJob --serializer json`, not with a plain rq worker"
        )
    return _current[0]
