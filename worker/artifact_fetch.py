"""Fetches registered models' files beforehand: ``python -P -m worker.artifact_fetch``, items as JSON on stdin.

A process of its own under the worker's Python, so that it can be stopped; it speaks as `worker.runner.fetch` does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.fetch_items import FetchItem
from worker.registered_model import model_folder
from worker.runner.fetch_events import FetchEvents


def main() -> None:
    """Fetch every item of the request."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    events = FetchEvents.from_environment(os.environ)
    request = json.loads(sys.stdin.buffer.read())
    for told in request["items"]:
        item = FetchItem.model_validate({name: told[name] for name in FetchItem.model_fields if name in told})
        events.begin(told["key"])
        try:
            assert item.artifact is not None, "an artifact item has its model"
            model_folder(
                item.artifact,
                Path(request["data_folder"]),
                request["server_url"],
                reserve=request["reserve"],
                tell=lambda done, total: events.tell("fetching" if total else "waiting", done, total or None),
            )
            events.tell("done")
        except LmmsError as error:
            events.tell("failed", message=error.message)


if __name__ == "__main__":
    main()
