"""Fetches as live events of the runs that wait for them. For watching: nothing is repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.fetch_orders import FetchOrder
from mlflow_lmms.live_events import EventLog, Kind
from mlflow_lmms.queue_keys import split_job_id

logger = logging.getLogger(__name__)

PHASE = "fetch"
_EVERY_S = 1.0
#: To so many runs it is told how far a file is; all of them have it in the reason for which they wait.
_MOST_RUNS = 50


class FetchShown:
    """Appends to the streams of the runs."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._shown: dict[str, float] = {}
        self._started: dict[str, set[str]] = {}

    def progress(self, order: FetchOrder, done: int, total: int | None) -> None:
        """Show how many bytes are there, not more often than a viewer can follow."""
        started = self._started.setdefault(order.item.key, set())
        for job in order.jobs[:_MOST_RUNS]:
            if job not in started:
                started.add(job)
                self._append(job, "phase", {"task": None, "phase": PHASE})
        now = time.monotonic()
        if total is None or (done != total and now - self._shown.get(order.item.key, 0.0) < _EVERY_S):
            return
        self._shown[order.item.key] = now
        data = {"task": None, "phase": PHASE, "done": done, "total": total, "rate": None, "eta_s": None}
        for job in order.jobs[:_MOST_RUNS]:
            self._append(job, "progress", {**data, "what": order.item.name, "unit": "bytes"})

    def failed(self, order: FetchOrder, box: str, why: str) -> None:
        """Show why an item could not be fetched."""
        message = f"files could not be fetched beforehand on {box}: {why}"
        line = {"time": time.time(), "level": "WARNING", "phase": PHASE, "rank": 0, "message": message}
        for job in order.jobs[:_MOST_RUNS]:
            self._append(job, "log", {"lines": [line]})

    def forget(self, key: str) -> None:
        """The order of this item no longer stands."""
        self._shown.pop(key, None)
        self._started.pop(key, None)

    def _append(self, job: str, kind: Kind, data: Mapping[str, Any]) -> None:
        run_id, part = split_job_id(job)
        try:
            self._events.append(run_id, kind, data, part=part)
        except UnavailableError as error:
            logger.warning("no live events for %s: %s", run_id, error)
