"""Runs a task's code once more in a forked child that is killed at a deadline.

Owns the child: what it does reaches neither this process's state nor its output, and it cannot hang the task, not
even inside native code. It knows nothing of scores.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from worker.runner.task_guard import TaskGuard

_DONE, _RAISED = "done", "raised"
_BLOCK = 1 << 16

Tell = Callable[[Any], None]


@dataclass
class ChildReport:
    """What the child told until its end; `failure` says why it did not come to the end, where it did not."""

    told: list[Any] = field(default_factory=list)
    failure: str | None = None


def in_child(work: Callable[[Tell], None], seconds: float) -> ChildReport:
    """Run `work` in a child for at most `seconds`; it tells its results, as JSON values, one by one."""
    reading, writing = os.pipe()
    try:
        child = _fork()
    except OSError as error:  # a model may leave no memory for a second process
        os.close(reading)
        os.close(writing)
        return ChildReport(failure=f"no process could be started: {error}")
    if child == 0:
        os.close(reading)
        _work(work, writing, seconds)
    os.close(writing)
    report = ChildReport()
    try:
        report.failure = _read(reading, time.monotonic() + seconds, seconds, report.told)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return report


def _fork() -> int:
    with warnings.catch_warnings():
        # Threads of a loaded model do not live on in the child; where it waits for one of their locks, the deadline
        # ends it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _read(descriptor: int, deadline: float, seconds: float, told: list[Any]) -> str | None:
    rest = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            break
        block = os.read(descriptor, _BLOCK)
        if not block:
            return "its process ended early"
        *lines, rest = (rest + block).split(b"\n")
        for kind, value in map(json.loads, lines):
            if kind == _DONE:
                return None
            if kind == _RAISED:
                return str(value)
            told.append(value)
    return f"not done within {seconds:.0f} s"


def _work(work: Callable[[Tell], None], descriptor: int, seconds: float) -> NoReturn:
    """The child's life: it never returns into the parent's code, whatever the work does."""

    def send(kind: str, value: Any) -> None:
        line = json.dumps([kind, value]).encode() + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]

    # Without a parent to kill it, the child ends by itself.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    try:
        with _Silence(), TaskGuard(lambda error: send(_RAISED, f"{type(error).__name__}: {error}"[:500])):
            work(lambda value: send("", value))
            send(_DONE, None)
    finally:
        os._exit(0)


class _Silence:
    """Sends what the process prints nowhere: repeated hundreds of times it would drown the log."""

    def __enter__(self) -> None:
        with Path(os.devnull).open("wb") as void:
            for descriptor in (1, 2):
                os.dup2(void.fileno(), descriptor)
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        return None
