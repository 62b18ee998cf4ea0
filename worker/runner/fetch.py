"""Fetches what a run will load, before it has GPUs: ``python -P -m worker.runner.fetch``, items as JSON on stdin.

It runs under the evaluation environment's own Python with the Hub's libraries alone: neither torch nor lmms-eval is
imported. Each item is told of by itself; one that fails does not stop the others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from worker.runner.fetch_events import FetchEvents
from worker.runner.fetch_failure import explain


class ItemGuard:
    """Turns whatever ends an item into the words that it failed with, so that the next one has its turn."""

    def __init__(self, item: Mapping[str, Any], events: FetchEvents) -> None:
        self._item, self._events = item, events

    def __enter__(self) -> Self:
        self._events.begin(str(self._item["key"]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self._events.tell("done")
            return True
        if not isinstance(error, Exception):
            return False
        traceback.print_exception(error)
        token = bool(self._item.get("token"))
        self._events.tell("failed", message=explain(error, str(self._item["name"]), token=token))
        return True


def main() -> None:
    """Fetch every item of the request."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    events = FetchEvents.from_environment(os.environ)
    request = json.loads(sys.stdin.buffer.read())
    # No program of a data set is run here, whatever the releases of the libraries do by themselves.
    os.environ |= {"HF_DATASETS_TRUST_REMOTE_CODE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for item in request["items"]:
        with ItemGuard(item, events):
            _fetch(item, int(request["reserve"]), events)


def _fetch(item: Mapping[str, Any], reserve: int, events: FetchEvents) -> None:
    if item["kind"] == "model" or item.get("whole"):
        from worker.runner.repository_fetch import fetch_repository

        fetch_repository(item, reserve, events)
        return
    from worker.runner.dataset_fetch import fetch_dataset  # imports datasets, which takes a second

    fetch_dataset(item, reserve, events)


if __name__ == "__main__":
    main()
