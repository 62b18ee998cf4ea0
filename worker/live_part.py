"""The live events of one part: what the runner says, put into the run's stream. For watching: nothing is repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Literal

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.live_events import EventLog, Kind
from mlflow_lmms.work_order import WorkOrder

logger = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 0.25
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "phase": ("task", "phase"),
    "progress": ("task", "phase", "done", "total", "rate", "eta_s"),
    "score": ("task", "metric", "filter", "value", "low", "high", "n", "final"),
}


class LivePart:
    """Appends the events of one work order."""

    def __init__(self, events: EventLog, order: WorkOrder) -> None:
        self._events = events
        self._order = order
        self._progress_at = 0.0
        self._silent = False
        self.phase: str | None = None

    def show(self, kind: Literal["phase", "progress", "score"], event: Mapping[str, Any]) -> None:
        """Show one event of the runner; of progress not more than a viewer can follow."""
        data = {name: event.get(name) for name in _FIELDS[kind]}
        if kind == "phase":
            self.phase = data["phase"]
        if kind == "progress" and data["done"] != data["total"]:
            if time.monotonic() - self._progress_at < _PROGRESS_EVERY_S:
                return
            self._progress_at = time.monotonic()
        final = kind == "score" and bool(data["final"])
        self._append(kind, data, self._feed() if final else None)

    def gpu(self, data: Mapping[str, Any]) -> None:
        """Show what the GPUs do."""
        self._append("gpu", data, None)

    def log(self, lines: list[dict[str, Any]]) -> None:
        """Show lines of the log."""
        self._append("log", {"lines": lines}, None)

    def _feed(self) -> dict[str, Any]:
        return {"experiment_id": self._order.experiment_id, "model": self._order.model.label}

    def _append(self, kind: Kind, data: Mapping[str, Any], feed: Mapping[str, Any] | None) -> None:
        order = self._order
        try:
            self._events.append(order.run_id, kind, data, part=order.part, token=order.token, feed=feed)
            self._silent = False
        except UnavailableError as error:
            if not self._silent:
                logger.warning("no live events for %s: %s", order.run_id, error)
            self._silent = True
