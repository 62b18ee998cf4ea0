"""Keeps what a task's or an adapter's code raises from ending the runner.

Owns which exceptions are a failure of tasks; what is said about them is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class TaskGuard:
    """Hands an exception of the guarded block to `report`; `failed` tells whether there was one."""

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        self._report = report
        self.failed = False

    def __enter__(self) -> TaskGuard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # Some adapters and tasks end the process over a missing key; that must not take the other tasks along.
        if not isinstance(error, Exception | SystemExit):
            return False
        self.failed = True
        self._report(error)
        return True
