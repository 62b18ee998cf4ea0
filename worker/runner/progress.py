"""How far the phase that runs now has come: counts, rate and remaining time, told at a readable pace.

Owns pace, rate and the meaning of a bar's position. Where bars come from is `bars`' matter; what a phase does is
nobody's business here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from worker.runner.events import EventWriter

_INTERVAL_S = 0.25
_RATE_WINDOW_S = 30.0
_SCORING_BAR = "Postprocessing"  # lmms-eval's own name for the bar that begins when all answers are there


class Bar(Protocol):
    """What is read of a progress bar."""

    n: float
    total: float | None
    desc: str


class Progress:
    """Tells the worker the phase and its progress; one bar is followed at a time, the outermost."""

    def __init__(self, events: EventWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._lock = threading.RLock()
        #: Whatever got done since the start, in steps of any size.
        self.steps = 0
        self.task: str | None = None
        self.phase = ""
        self._bar: Bar | None = None
        self._expected = False
        self._window = (0, 0)
        self._begin(0)

    def enter(self, phase: str, task: str | None) -> None:
        """Begin a phase, whose length is not known yet."""
        with self._lock:
            self.steps += 1
            again = (task, phase) == (self.task, self.phase)
            self.task, self.phase = task, phase
            self._bar, self._expected = None, False
            self._begin(0)
            if not again:
                self._events.phase(task, phase)

    def expect(self, total: int) -> None:
        """Set the phase's length; bars then count only inside the window that `window` opens."""
        with self._lock:
            self._expected = True
            self._begin(total)

    def window(self, start: int, size: int) -> None:
        """Say which part of the expected length the next bar stands for; everything before it is done."""
        with self._lock:
            self._window = (start, size)
            self.advance(start)

    def advance(self, done: int) -> None:
        """Say how much is done. The first and the last step are always told, others a few times a second."""
        with self._lock:
            done = min(done, self._total)
            self.steps += done > self._marks[-1][1]
            now = self._clock()
            self._marks.append((now, done))
            while now - self._marks[0][0] > _RATE_WINDOW_S and len(self._marks) > 2:
                self._marks.popleft()
            last = done == self._total and self._told != done
            if done != self._told and (last or now - self._told_at >= _INTERVAL_S):
                self._tell(done, now)

    def bar_opened(self, bar: Bar) -> None:
        """Follow this bar when it is the outermost one of known length."""
        with self._lock:
            if bar.desc.startswith(_SCORING_BAR) and self.phase != "score":
                self.enter("score", self.task)
            if self._bar is None and bar.total:
                self._bar = bar
                if not self._expected:
                    self._begin(int(bar.total))

    def bar_moved(self, bar: Bar) -> None:
        """Translate the followed bar's position into progress."""
        with self._lock:
            self.steps += 1
            if bar is not self._bar or not bar.total:
                return
            share = min(1.0, bar.n / bar.total)
            start, size = self._window if self._expected else (0, self._total)
            self.advance(start + int(size * share))

    def bar_closed(self, bar: Bar) -> None:
        """Stop following this bar."""
        with self._lock:
            self.bar_moved(bar)
            if bar is self._bar:
                self._bar = None

    def _begin(self, total: int) -> None:
        now = self._clock()
        self._total = total
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])
        self._told, self._told_at = -1, now
        if total:
            self._tell(0, now)

    def _tell(self, done: int, now: float) -> None:
        self._told, self._told_at = done, now
        started, first = self._marks[0]
        rate = (done - first) / (now - started) if now > started and done > first else None
        eta = (self._total - done) / rate if rate else None
        self._events.progress(
            self.task,
            self.phase,
            done,
            self._total,
            None if rate is None else round(rate, 3),
            None if eta is None else round(eta, 1),
        )
