"""Keeps a few programs running: starts them, waits until they answer, restarts what ends, stops all.

It knows programs as names with a start and an end, and nothing of what they do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mlflow_lmms.errors import LmmsError, UnavailableError
from mlflow_lmms.kept_process import kept_command

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HEALTHY_AFTER_S = 60.0
_LOG_LIMIT = 20_000_000
_POLL_S = 0.05


class Program(Protocol):
    """Something that can be kept running."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def log(self) -> Path:
        """The file that it writes its output to."""

    def start(self) -> None:
        """Start it; it need not answer yet."""

    def wait(self) -> int | None:
        """Return its exit code when it has ended; None at once when it is not ours to watch."""

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""

    def answers(self) -> bool:
        """Whether it does its work now."""

    def stop(self) -> None:
        """End it and everything it started."""


class KeptProgram:
    """A command under a keeper, so that nothing of it outlives this process; output goes to a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        answers: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
        grace_s: float = 10.0,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._answers = answers
        self._environ = dict(os.environ if environ is None else environ)
        self._grace_s = grace_s
        self._pass_fds = tuple(pass_fds)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command; call it from a thread that lives as long as it."""
        self._kill_left()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as output:
            output.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} start of {self.name}\n".encode())
            output.flush()
            self._process = subprocess.Popen(
                kept_command(self._command, self._grace_s),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ,
                pass_fds=self._pass_fds,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends its programs in order
            )

    def wait(self) -> int | None:
        """Return the exit code when the command has ended."""
        return None if self._process is None else self._process.wait()

    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return None if self._process is None else self._process.poll()

    def answers(self) -> bool:
        """Whether it does its work now."""
        return self._answers()

    def stop(self) -> None:
        """End the command and everything below it; the keeper sees to the deadline."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._kill_left()

    def _kill_left(self) -> None:
        """Kill what a keeper left behind that was itself killed: it holds the port that the next one needs."""
        if self._process is None:
            return
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(entry.name)) == self._process.pid:
                    os.kill(int(entry.name), signal.SIGKILL)


class Supervisor:
    """Starts programs in order, restarts each that ends, stops them in the opposite order."""

    def __init__(
        self, programs: Sequence[Program], say: Callable[[str], None], first_pause_s: float = _FIRST_PAUSE_S
    ) -> None:
        """Prepare; `say` gets one line of text for people whenever something happens."""
        self._programs = list(programs)
        self._say = say
        self._first_pause_s = first_pause_s
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._watchers: list[threading.Thread] = []

    def start(self, timeout_s: float = 180.0) -> None:
        """Start everything and return when everything answers.

        Raises:
            UnavailableError: a program ended or did not answer in time; with the end of its log. All are stopped.
        """
        try:
            for program in self._programs:
                program.start()
            deadline = time.monotonic() + timeout_s
            for program in self._programs:
                self._await(program, deadline, timeout_s)
        except BaseException:
            self.stop()
            raise
        for program in self._programs:
            watcher = threading.Thread(target=self._watch, args=(program,), name=f"watch {program.name}", daemon=True)
            self._watchers.append(watcher)
            watcher.start()

    def stop(self) -> None:
        """Stop everything, the last started first. Also fine before `start` and twice."""
        with self._starting:
            self._stopping.set()
        for program in reversed(self._programs):
            program.stop()
        for watcher in self._watchers:
            watcher.join()

    def _await(self, program: Program, deadline: float, timeout_s: float) -> None:
        while not program.answers():
            code = program.ended()
            if code is not None:
                raise UnavailableError(
                    _with_log(f"{program.name} ended with code {code} while it was starting", program)
                )
            if time.monotonic() > deadline:
                raise UnavailableError(_with_log(f"{program.name} does not answer after {timeout_s:.0f} s", program))
            time.sleep(_POLL_S)

    def _watch(self, program: Program) -> None:
        pause = self._first_pause_s
        while True:
            since = time.monotonic()
            code = program.wait()
            if self._stopping.is_set() or code is None:
                return
            if time.monotonic() - since > _HEALTHY_AFTER_S:
                pause = self._first_pause_s
            self._say(
                f"{program.name} ended with code {code}; it is started again in {pause:.1f} s (see {program.log})"
            )
            started = False
            while not started and not self._stopping.wait(pause):
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                started = self._started_again(program)

    def _started_again(self, program: Program) -> bool:
        with self._starting:
            if self._stopping.is_set():
                return False
            try:
                program.start()
            except LmmsError as error:
                self._say(f"{program.name} cannot be started: {error}")
                return False
        return True


def _with_log(what: str, program: Program) -> str:
    lines = program.log.read_text(errors="replace").splitlines()[-15:] if program.log.exists() else []
    return "\n  ".join([f"{what}; the end of {program.log}:", *lines])
