"""Who used how much of the fleet, as one caller may see it. For API and page."""

from __future__ import annotations

import time

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.gpu_use import UseSummary
from plugin_ui.permissions import caller, readable_experiments
from plugin_ui.services import services

_DAY_S = 24 * 3600
_MOST_RUNS = 10_000


def used(by: str, days: int) -> list[UseSummary]:
    """The use that the caller may see: every box's, their own, and that of runs that they may read.

    Raises:
        InvalidRequestError: there is no such grouping.
    """
    core, who, readable = services(), caller(), readable_experiments()
    since = time.time() - days * _DAY_S
    if by == "box":
        return core.gpu_use.by_box(since)
    if by == "user":
        return [row for row in core.gpu_use.by_user(since) if who.is_admin or row.name == who.username]
    if by == "run":
        rows = core.gpu_use.by_run(since)
        if readable is None:
            return rows
        ours = {e.run_id for e in core.store.search(experiment_ids=readable, limit=_MOST_RUNS)}
        return [row for row in rows if row.name in ours]
    raise InvalidRequestError(f"by: expected user, box or run, got {by[:80]!r}")
