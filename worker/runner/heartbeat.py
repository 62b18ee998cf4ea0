"""Says every few seconds that the runner lives and how much it has done, so that a run that hangs can be told.

Owns what counts as done: steps of any bar, phases, leave to send a request; outside of generating also processor
time, since imports and loading move no bar. While a model generates only its answers count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from worker.runner.events import EventWriter
from worker.runner.progress import Progress

_INTERVAL_S = 5.0
_GENERATING = "generate"


class Heartbeat:
    """A thread of its own, which otherwise ends with the process."""

    def __init__(
        self, events: EventWriter, progress: Progress, clock: Callable[[], float] = time.process_time
    ) -> None:
        self._events = events
        self._progress = progress
        self._clock = clock
        self._worked = 0.0
        self._clock_before = clock()

    def start(self, every_s: float = _INTERVAL_S) -> threading.Event:
        """Begin to beat; the event that is returned ends it."""
        end = threading.Event()

        def beat() -> None:
            while not end.wait(every_s):
                self.beat()

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()
        return end

    def beat(self) -> None:
        """Tell the worker once. It takes no lock of the progress: a fork must not copy one that is held here."""
        now = self._clock()
        phase = self._progress.phase
        if phase != _GENERATING:
            self._worked += now - self._clock_before
        self._clock_before = now
        self._events.heartbeat(self._progress.task, phase, self._progress.steps + int(self._worked))
