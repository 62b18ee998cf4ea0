"""One rank as a process: this program again, its request on stdin, its events and its console read.

Owns the pipes. What its events mean is `ranks`' matter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from typing import IO, Any

from worker.runner.events import DESCRIPTOR_VARIABLE

_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 15
_BLOCK = 1 << 16
_libc = ctypes.CDLL(None)


class RankProcess:
    """Started when made. Make it in the thread whose end is to end it."""

    def __init__(self, number: int, document: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.number = number
        #: What it said last on its console, and its log lines of weight.
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._rest: dict[str, bytes] = {"events": b"", "stdout": b"", "stderr": b""}
        reading, writing = os.pipe()
        self._events = os.fdopen(reading, "rb", buffering=0)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, DESCRIPTOR_VARIABLE: str(writing)},
            pass_fds=(writing,),
            preexec_fn=_die_with_parent,
        )
        os.close(writing)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(json.dumps(document).encode())

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let `selector` watch all that it writes."""
        streams: dict[str, IO[bytes] | None] = {
            "events": self._events,
            "stdout": self.process.stdout,
            "stderr": self.process.stderr,
        }
        for name, stream in streams.items():
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, (self, name))

    def read(self, selector: selectors.BaseSelector, stream: Any, name: str) -> list[dict[str, Any]]:
        """Take what came: its events; what it printed is printed again, by later ranks with their number."""
        data = os.read(stream.fileno(), _BLOCK)
        *lines, self._rest[name] = (self._rest[name] + data).split(b"\n")
        if not data:
            selector.unregister(stream)
            stream.close()
            lines, self._rest[name] = [self._rest[name]] if self._rest[name] else [], b""
        if name == "events":
            return [self._heard(json.loads(line)) for line in lines if data]
        for line in lines:
            self._print(line, sys.stdout.buffer if name == "stdout" else sys.stderr.buffer)
        return []

    def _heard(self, event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "log" and event["level"] in ("WARNING", "ERROR"):
            self.last_lines.append(event["message"])
        return event

    def _print(self, line: bytes, stream: IO[bytes]) -> None:
        text = line.rsplit(b"\r", 1)[-1]
        if text.strip():
            self.last_lines.append(text.decode(errors="replace"))
        stream.write((f"[rank {self.number}] ".encode() if self.number else b"") + line + b"\n")
        stream.flush()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
