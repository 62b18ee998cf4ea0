"""The thread of a server process that keeps the score index up with MLflow: when something was written, and always.

Which process looks at what is decided inside the tick. The thread outlives an absent database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.score_feed import ScoreFeed

_PERIOD_S = 1.0
_SLOWEST_S = 15.0
#: Writes that come at once are looked at together.
_GATHER_S = 0.02
#: The thread takes half of a core at most; requests are answered in between.
_REST = 1.0
_LAST_NOTES_S = 3.0

_log = logging.getLogger(__name__)


class FeedThread:
    """Ticks when the feed is woken and every second or so, less often while it fails, until it is stopped."""

    def __init__(self, feed: ScoreFeed, period_s: float = _PERIOD_S) -> None:
        self._feed = feed
        self._period = period_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmms-feed", daemon=True)

    def start(self) -> None:
        """Begin, in a thread that does not keep the process alive."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it was told of is kept for the next process."""
        self._stopped.set()
        self._feed.wake()
        self._thread.join(_LAST_NOTES_S)

    def _run(self) -> None:
        pause = self._period
        while not self._stopped.is_set():
            self._feed.wait(pause)
            self._stopped.wait(_GATHER_S)
            began = time.monotonic()
            if self._went_well(self._feed.tick):
                pause = self._period
                self._stopped.wait(_REST * (time.monotonic() - began))
            else:
                pause = min(pause * 2, _SLOWEST_S)
                self._stopped.wait(pause)
        self._went_well(self._keep_notes)

    def _keep_notes(self) -> Iterable[str]:
        self._feed.keep_notes()
        return ()

    def _went_well(self, act: Callable[[], Iterable[str]]) -> bool:
        try:
            for line in act():
                _log.warning("score index: %s", line)
        except (LmmsError, MlflowException, SQLAlchemyError, OSError) as error:
            _log.warning("score index: failed and tries again: %s: %s", type(error).__name__, error)
            return False
        return True
