"""One process that fetches items, marked, kept and stopped as a runner is; what it tells of each item.

Which items, and what becomes of them, is the fetcher's.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.fetch_items import FetchItem
from mlflow_lmms.settings import Settings
from worker.evaluation_environment import python_of, runner_environ, runner_path
from worker.process_tree import LEASE_VARIABLE
from worker.runner_process import RunnerEvent, RunnerLine, RunnerProcess

_GRACE_S = 1.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class FetchEvent:
    """How far an item is: ``waiting``, ``fetching``, ``done`` or ``failed``."""

    item: str
    state: str
    done: int
    total: int | None
    message: str


class FetchProcess:
    """Fetches some items of one kind; started at once."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], items: Sequence[FetchItem], secrets: Mapping[str, str]
    ) -> None:
        """Start it. Call it from the thread whose end is to end the process.

        Raises:
            InvalidRequestError: this box does not offer the items' evaluation environment.
        """
        first = items[0]
        mark = f"fetch-{settings.box}#{uuid.uuid4().hex[:12]}"
        folder = settings.data_folder.absolute() / "fetch"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if first.kind == "artifact":
            command = [sys.executable, "-P", "-m", "worker.artifact_fetch"]
            variables = {**environ, LEASE_VARIABLE: mark}
        else:
            command = [python_of(first.environment, settings), "-P", "-m", "worker.runner.fetch"]
            variables = runner_environ(environ, mark=mark, gpus=(), secrets=secrets)
            if first.environment is not None:
                variables["PYTHONPATH"] = str(runner_path(settings.data_folder.absolute() / "runner"))
        #: The item that it is at, and those that it has not settled.
        self.current: str | None = None
        self.left = [item.key for item in items]
        self.last_line = "it said nothing"
        self._process = RunnerProcess(command, variables, folder, mark, _GRACE_S)
        self._process.start(
            {
                "items": [{**item.model_dump(mode="json"), "key": item.key} for item in items],
                "reserve": int(settings.disk_reserve_gb * 1e9),
                "data_folder": str(settings.data_folder.absolute()),
                "server_url": settings.server_url,
            }
        )

    def read(self, timeout_s: float) -> list[FetchEvent]:
        """What it told, waiting at most so long for the first of it."""
        found = []
        for told in self._process.read(timeout_s):
            if isinstance(told, RunnerEvent) and (event := self._event(told.data)) is not None:
                found.append(event)
            elif isinstance(told, RunnerLine) and told.text.strip():
                self.last_line = told.text.strip()
        return found

    def _event(self, data: Mapping[str, Any]) -> FetchEvent | None:
        key, state = str(data.get("item")), str(data.get("state"))
        if data.get("event") != "fetch" or key not in self.left:
            return None
        self.current = key
        if state in ("done", "failed"):
            self.left.remove(key)
            self.current = None
        return FetchEvent(key, state, int(data.get("done") or 0), data.get("total"), str(data.get("message") or ""))

    @property
    def ended(self) -> bool:
        """Whether it has ended and all that it told was read."""
        return self._process.ended

    @property
    def code(self) -> int:
        """Its exit code."""
        return self._process.code

    def close(self) -> None:
        """End it, and everything below it."""
        self._process.stop()  # its keeper ends the tree in order and leaves no zombie
        while not self._process.ended:
            self._process.read(_LOOK_EVERY_S)
        self._process.close()
