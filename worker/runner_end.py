"""What the way in which the runner's process ended tells about the failure. Pure, but for the kernel's counter."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from mlflow_lmms.states import FailureClass

_BAD_REQUEST = 2
_FIRST_SIGNAL = 128
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class RunnerEnd:
    """Why tasks have no result; `retryable` when another attempt may help."""

    failure: FailureClass
    message: str
    retryable: bool


def explain_end(code: int, *, memory_kills: int) -> RunnerEnd:
    """The failure of a runner that ended with `code` (128 + signal for a signal) and left tasks without a result.

    Args:
        memory_kills: processes that the kernel killed for want of memory while it ran.
    """
    if code == _BAD_REQUEST:
        message = "the runner refused the request; its log says why"
        return RunnerEnd(FailureClass.BAD_REQUEST, message, retryable=False)
    if code < _FIRST_SIGNAL:
        message = f"the evaluation process ended with exit code {code} without a result; see the end of its log"
        return RunnerEnd(FailureClass.UNKNOWN, message, retryable=False)
    number = code - _FIRST_SIGNAL
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    if number == signal.SIGKILL and memory_kills > 0:
        message = (
            "the kernel killed the evaluation process because the machine ran out of memory (signal 9): use a "
            "smaller batch size or model, or a box with more memory"
        )
        return RunnerEnd(FailureClass.OUT_OF_MEMORY, message, retryable=False)
    message = f"the evaluation process was killed by signal {number} ({name})"
    if number == signal.SIGKILL:
        message += ", by somebody or for want of memory in its container"
    return RunnerEnd(FailureClass.WORKER_LOST, message, retryable=True)


def kills_for_memory() -> int:
    """How many processes this machine's kernel has killed for want of memory since it started."""
    try:
        match = _OOM_KILLS.search(Path("/proc/vmstat").read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(match[1]) if match else 0
