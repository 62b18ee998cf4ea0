"""The thread of a server process that lets the scheduler plan: when something wakes it, and every second or so.

Which process leads is decided inside the tick. The thread outlives an absent database or queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.wakes import Wakes

_PERIOD_S = 1.5
_SLOWEST_S = 15.0
#: Words that come at once are one reason to plan, and planning uses about a tenth of a core at most.
_GATHER_S = 0.03
_REST = 9.0

_log = logging.getLogger(__name__)


class SchedulerThread:
    """Calls `tick` again and again until it is stopped, less often while it fails."""

    def __init__(self, tick: Callable[[], Iterable[str]], wakes: Wakes, period_s: float = _PERIOD_S) -> None:
        self._tick = tick
        self._wakes = wakes
        self._period = period_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmms-scheduler", daemon=True)

    def start(self) -> None:
        """Begin, in a thread that does not keep the process alive."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; does not wait for the tick that runs now."""
        self._stopped.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            self._wakes.wait(self._period)  # words that came during the pause are heard at once
            began = time.monotonic()
            if self._went_well():
                pause = min(max(_REST * (time.monotonic() - began), _GATHER_S), self._period)
            else:
                pause = min(max(2 * pause, self._period), _SLOWEST_S)
        self._wakes.close()

    def _went_well(self) -> bool:
        try:
            for line in self._tick():
                _log.warning("scheduler: %s", line)
        except (LmmsError, MlflowException, SQLAlchemyError, OSError) as error:
            _log.warning("scheduler: failed and tries again: %s: %s", type(error).__name__, error)
            return False
        return True
