"""Which waiting jobs no box of the fleet can ever run, and since when. Values in, values out.

A fleet changes: a box may be about to join. So a job is given up only after a while of being hopeless all the time.
"""

from __future__ import annotations

from mlflow_lmms.planner.fleet import Plan, Wait


class HopelessJobs:
    """Remembers since when jobs have been hopeless."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._since: dict[str, float] = {}

    def given_up(self, made: Plan, now: float) -> list[Wait]:
        """The jobs of a plan that have had no hope for longer than the grace."""
        hopeless = {wait.job: wait for wait in made.waits if wait.never}
        self._since = {job: self._since.get(job, now) for job in hopeless}
        return [wait for job, wait in hopeless.items() if now - self._since[job] >= self._grace_s]
