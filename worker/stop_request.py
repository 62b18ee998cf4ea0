"""How a slot asks the process that runs a part to stop: two signals, and the flag that they set there."""

from __future__ import annotations

import signal
from enum import StrEnum
from types import FrameType


class StopReason(StrEnum):
    """Why a part is to stop before its end."""

    CANCEL = "cancel"
    GIVE_BACK = "give_back"


#: Reason → signal. Both are blocked from before the fork until the handlers stand, so that none is lost.
SIGNALS = {StopReason.CANCEL: signal.SIGUSR1, StopReason.GIVE_BACK: signal.SIGTERM}


class StopFlag:
    """Remembers the first reason to stop; one that comes later changes nothing."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None

    def ask(self, reason: StopReason) -> None:
        """Ask to stop."""
        if self.reason is None:
            self.reason = reason

    def listen(self) -> None:
        """Let the signals set the flag, those included that came while they were blocked."""
        for reason, number in SIGNALS.items():
            signal.signal(number, self._handler(reason))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS.values())

    def _handler(self, reason: StopReason) -> signal._HANDLER:
        def note(number: int, frame: FrameType | None) -> None:
            self.ask(reason)

        return note
