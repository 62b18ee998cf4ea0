"""How a slot asks the process that runs a part to stop: two signals, and the flag that they set there."""

from __future__ import annotations

import signal
import time
from enum import StrEnum
from types import FrameType


class StopReason(StrEnum):
    """Why a part is to stop before its end."""

    CANCEL = "cancel"
    GIVE_BACK = "give_back"


#: A part that is to stop may bring in what it has for so long; the slot kills it some time later.
WRAP_UP_S = 20.0
#: Reason → signal. Both are blocked from before the fork until the handlers stand, so that none is lost.
SIGNALS = {StopReason.CANCEL: signal.SIGUSR1, StopReason.GIVE_BACK: signal.SIGTERM}


class StopFlag:
    """Remembers the first reason to stop; one that comes later changes nothing."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._until = 0.0

    def ask(self, reason: StopReason) -> None:
        """Ask to stop."""
        if self.reason is None:
            self._until = time.monotonic() + WRAP_UP_S
            self.reason = reason

    def leaves_time(self) -> bool:
        """Whether it makes sense to wait for an absent server."""
        return self.reason is None or time.monotonic() < self._until

    def listen(self) -> None:
        """Let the signals set the flag, those included that came while they were blocked."""
        for reason, number in SIGNALS.items():
            signal.signal(number, self._handler(reason))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS.values())

    def _handler(self, reason: StopReason) -> signal._HANDLER:
        def note(number: int, frame: FrameType | None) -> None:
            self.ask(reason)

        return note
