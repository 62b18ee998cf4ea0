"""The runner's only voice towards the worker: typed events as JSON lines on an inherited descriptor.

Owns the wire format of events (protocol version 1). It knows nothing of lmms-eval; stdout and stderr may carry
anything without harm, because events never travel there.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

PROTOCOL = 1
DESCRIPTOR_VARIABLE = "LMMS_EVENT_FD"
_OF_EACH_RANK = ("log", "phase", "heartbeat", "task-failed")
_LONGEST_TEXT = 16_384  # one line of log must not stall the pipe's reader


class EventChannelError(Exception):
    """The descriptor for events is missing or cannot be written to."""


class EventWriter:
    """Writes events, one JSON object a line, each flushed at once. Safe to call from any thread."""

    def __init__(self, descriptor: int, rank: int | None = None) -> None:
        """`rank` is this process's number among those that evaluate together; None: it is alone."""
        self._descriptor = descriptor
        self._rank = rank
        self._lock = threading.Lock()
        self._process = os.getpid()
        self.current_phase = "import"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> EventWriter:
        """Take the descriptor that the worker named in ``LMMS_EVENT_FD``."""
        text = environment.get(DESCRIPTOR_VARIABLE, "")
        try:
            descriptor = int(text)
            os.fstat(descriptor)
        except (ValueError, OSError, OverflowError) as error:
            raise EventChannelError(
                f"expected {DESCRIPTOR_VARIABLE} to name an open file descriptor for events, got {text!r}; "
                "the runner is started by the worker, which passes the descriptor"
            ) from error
        os.set_inheritable(descriptor, False)
        rank = environment.get("RANK")
        return cls(descriptor, int(rank) if rank else None)

    def phase(self, task: str | None, phase: str) -> None:
        """Say which phase begins."""
        self.current_phase = phase
        self._write({"event": "phase", "task": task, "phase": phase})

    def task_started(self, task: str, samples: int) -> None:
        """Say that the evaluation of a task begins, with its number of documents."""
        self._write({"event": "task-started", "task": task, "samples": samples})

    def progress(
        self, task: str | None, phase: str, done: int, total: int, rate: float | None, eta_s: float | None
    ) -> None:
        """Say how far a phase has come."""
        self._write(
            {
                "event": "progress",
                "task": task,
                "phase": phase,
                "done": done,
                "total": total,
                "rate": rate,
                "eta_s": eta_s,
            }
        )

    def heartbeat(self, task: str | None, phase: str, done: int) -> None:
        """Say that the process lives; `done` is a count that grows with whatever gets done, and with nothing else."""
        self._write({"event": "heartbeat", "task": task, "phase": phase, "done": done})

    def ask(self, requests: int) -> None:
        """Ask the worker for leave to send so many requests to a service."""
        self._write({"event": "ask", "requests": requests})

    def score(self, task: str, score: Mapping[str, Any], final: bool) -> None:
        """Give a task's score so far; `score` has metric, filter, value, low, high and n."""
        self._write({"event": "score", "task": task, **score, "final": final})

    def log(self, level: str, message: str, at: float | None = None) -> None:
        """Pass one log message on."""
        self._write(
            {
                "event": "log",
                "level": level,
                "message": message[:_LONGEST_TEXT],
                "phase": self.current_phase,
                "rank": self._rank or 0,
                "time": time.time() if at is None else at,
            }
        )

    def task_finished(self, task: str, result: str) -> None:
        """Say that a task's files are complete; `result` is relative to the output folder."""
        self._write({"event": "task-finished", "task": task, "result": result})

    def task_failed(self, task: str, failure: str, message: str, traceback: str) -> None:
        """Say that a task has no result, and why."""
        # Of several ranks' failures their starter passes the earliest on.
        when = {} if self._rank is None else {"phase": self.current_phase, "at": time.monotonic()}
        self._write(
            {
                "event": "task-failed",
                "task": task,
                "failure": failure,
                "message": message[:_LONGEST_TEXT],
                "traceback": traceback[-_LONGEST_TEXT:],
                **when,
            }
        )

    def tasks(self, names: Sequence[str]) -> None:
        """Tell a rank's starter which tasks the request stands for."""
        if self._rank == 0:
            self._write({"event": "tasks", "names": list(names)})

    def pass_on(self, event: Mapping[str, Any]) -> None:
        """Say what a rank has said."""
        self._write(event)

    def _write(self, event: Mapping[str, Any]) -> None:
        # A forked child (a data loader, say) inherits this object; its lines would mix with ours.
        if os.getpid() != self._process:
            return
        if self._rank and event["event"] not in _OF_EACH_RANK:  # the first one speaks for all
            return
        text = json.dumps({key: _plain(value) for key, value in event.items()}, ensure_ascii=False, allow_nan=False)
        line = (text + "\n").encode("utf-8", errors="backslashreplace")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                # Nobody listens any more: give the accelerator back. Answers so far are in the cache.
                os._exit(1)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
