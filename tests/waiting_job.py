"""A job as the queue takes it, for tests that need one and do not care for the rest."""

from __future__ import annotations

import time
from typing import Any

from mlflow_lmms.planner.fleet import Job, Priority


def waiting(run: str, part: str = "p0", priority: str = "normal", gpus: int = 0, **fields: Any) -> Job:
    """A part of a run that has just begun to wait; `fields` are further ones of `planner.fleet.Job`."""
    told = {"user": "ada", "queued_at": time.time(), **fields}
    return Job(run=run, part=part, gpus=gpus, priority=Priority[priority.upper()], **told)
