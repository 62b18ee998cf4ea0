"""The thread of a server process that lets the reaper look at all evaluations every second or so.

Which process leads is decided inside the tick. The thread outlives an absent database or queue.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlflow_lmms.errors import LmmsError

_PERIOD_S = 1.5
_SLOWEST_S = 15.0

_log = logging.getLogger(__name__)


class ReaperThread:
    """Calls `tick` again and again until it is stopped, less often while it fails."""

    def __init__(self, tick: Callable[[], Iterable[str]], period_s: float = _PERIOD_S) -> None:
        self._tick = tick
        self._period = period_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmms-reaper", daemon=True)

    def start(self) -> None:
        """Begin, in a thread that does not keep the process alive."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; does not wait for the tick that runs now."""
        self._stopped.set()

    def _run(self) -> None:
        pause = self._period
        while not self._stopped.wait(pause):
            try:
                for line in self._tick():
                    _log.warning("reaper: %s", line)
                pause = self._period
            except (LmmsError, MlflowException, SQLAlchemyError, OSError) as error:
                pause = min(pause * 2, _SLOWEST_S)
                _log.warning("reaper: failed and tries again: %s: %s", type(error).__name__, error)
