"""The runner as a process: started under a keeper, its events and output read, stopped with everything below it.

It speaks the runner protocol's transport (request on stdin, events on a descriptor of their own); what the events
mean is not known here.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlflow_lmms.kept_process import kept_command
from worker.log_lines import LineCutter
from worker.process_tree import enclose, kill_all

EVENT_DESCRIPTOR = "LMMS_EVENT_FD"
#: The keeper's own time, after the grace, to kill what is left.
_KEEPER_S = 5.0
#: A stray process may hold a pipe open after the runner's end; nobody waits for it longer than this.
_DRAIN_S = 2.0
_LONGEST_EVENT = 1 << 22


@dataclass(frozen=True)
class RunnerEvent:
    """One event as it came."""

    data: dict[str, Any]


@dataclass(frozen=True)
class RunnerLine:
    """One line of stdout or stderr, or an event that is none."""

    text: str


class RunnerProcess:
    """One run of the runner."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], folder: Path, mark: str, grace_s: float
    ) -> None:
        """Prepare; the runner works in `folder`, marked as a process of the lease."""
        self._command = list(command)
        self._environ = dict(environ)
        self._folder = folder
        self._mark = mark
        self._grace_s = grace_s
        self._selector = selectors.DefaultSelector()
        self._cutters: dict[int, tuple[LineCutter, bool]] = {}
        self._kill_at: float | None = None
        self._drained_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, request: Mapping[str, Any], inherited: Mapping[str, int] | None = None) -> None:
        """Start it. Call it from the thread whose end is to end the runner (see `kept_process`).

        Args:
            inherited: further descriptors that it has, by the variable that tells it their number.
        """
        events, descriptor = os.pipe()
        descriptors = {**(inherited or {}), EVENT_DESCRIPTOR: descriptor}
        self._process = subprocess.Popen(
            kept_command(self._command, self._grace_s),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self._environ, **{name: str(number) for name, number in descriptors.items()}},
            cwd=self._folder,
            pass_fds=tuple(descriptors.values()),
            start_new_session=True,
        )
        os.close(descriptor)
        enclose(self._process.pid, self._mark)  # the runner starts nothing before it has read the request
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        self._watch(os.fdopen(events, "rb", buffering=0), events=True)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            self._watch(stream, events=False)

    def _watch(self, stream: IO[bytes], *, events: bool) -> None:
        os.set_blocking(stream.fileno(), False)
        self._selector.register(stream, selectors.EVENT_READ)
        self._cutters[stream.fileno()] = (LineCutter(_LONGEST_EVENT) if events else LineCutter(), events)

    def read(self, timeout_s: float) -> list[RunnerEvent | RunnerLine]:
        """What came, waiting at most so long for the first of it."""
        found: list[RunnerEvent | RunnerLine] = []
        for key, _ in self._selector.select(timeout_s):
            found += self._take(key.fileobj)
        self._see_to_the_end()
        return found

    def _take(self, stream: Any) -> list[RunnerEvent | RunnerLine]:
        cutter, events = self._cutters[stream.fileno()]
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return []
        lines = cutter.feed(data, last=not data)
        if not data:
            self._selector.unregister(stream)
            stream.close()
        return [_event(line) if events else RunnerLine(line) for line in lines]

    def _see_to_the_end(self) -> None:
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            kill_all(self._mark)
        if self.process.poll() is not None and self._drained_at is None:
            self._drained_at = time.monotonic() + _DRAIN_S

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The keeper's process."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def ended(self) -> bool:
        """Whether it has ended and all that it wrote was read."""
        return self._drained_at is not None and (not self._selector.get_map() or time.monotonic() > self._drained_at)

    @property
    def code(self) -> int:
        """Its exit code; 128 + signal when a signal ended it."""
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Ask it to end: SIGTERM, the grace, then SIGKILL for everything below it. Returns at once."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace_s + _KEEPER_S
            self.process.terminate()

    def close(self) -> None:
        """Leave no process and no open pipe."""
        if self._process is not None:
            kill_all(self._mark)
            self._process.wait()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()


def _event(line: str) -> RunnerEvent | RunnerLine:
    try:
        data = json.loads(line)
    except ValueError:
        return RunnerLine(f"an event that is no JSON: {line[:500]}")
    return RunnerEvent(data) if isinstance(data, dict) else RunnerLine(f"an event that is no object: {line[:500]}")
