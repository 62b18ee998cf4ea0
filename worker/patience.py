"""How long a part waits for an absent server: while it computes, for as long as that takes; afterwards not for ever.

A slot that holds results which nobody takes is of no use to others; the results wait in the spool, and the part goes
back to its queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.stop_request import StopFlag


class Patience:
    """Asked before each repetition of a call that the server did not answer."""

    def __init__(self, stop: StopFlag, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait without limit until `only_delivering`, then `limit_s` after the server's last answer."""
        self._stop = stop
        self._limit_s = limit_s
        self._now = clock
        self._delivering_since: float | None = None
        self._away_since: float | None = None

    def only_delivering(self) -> None:
        """Nothing is computed any more."""
        self._delivering_since = self._now()

    def answered(self) -> None:
        """The server has answered."""
        self._away_since = None

    def keep_trying(self) -> bool:
        """Whether to ask again, when there was no answer."""
        now = self._now()
        self._away_since = self._away_since or now
        if not self._stop.leaves_time():
            return False
        if self._delivering_since is None:
            return True
        return now - max(self._away_since, self._delivering_since) < self._limit_s
