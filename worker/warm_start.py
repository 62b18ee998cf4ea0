"""Warm start, the worker's side: one fork server of a slot, started after a run, for runs of the same kind.

It decides only how the runner's process comes about; all else is as with a cold start, which is always the fallback
(`worker.warm_relay`). What the server does is `worker.runner.fork_server`'s. A model that stays loaded between runs
would be one more thing that makes two runs the same `Kind`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_lmms.kept_process import adopting_program, kept_command
from worker.process_tree import LEASE_VARIABLE

logger = logging.getLogger(__name__)

FORK_SERVER = ("-P", "-m", "worker.runner.fork_server")
_RELAY = Path(__file__).with_name("warm_relay.py")
_GPUS = "CUDA_VISIBLE_DEVICES"
#: Room for a run's lease, which its process writes over this (see the fork server).
_ROOM = "-" * 240
_ENDED_BY_SIGNAL = 128
#: The server itself has nothing to wrap up.
_SERVER_GRACE_S = 0.5


@dataclass(frozen=True)
class Kind:
    """What two runs must have in common to be copies of one process: Python, adapter, all that imports may read."""

    python: str
    adapter: str
    environ: Mapping[str, str]


class WarmStart:
    """The fork server of one slot. Made and tended in the slot's process, asked in the processes that it forks."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._asked = os.memfd_create("warm start")
        self._last: Kind | None = None
        self._kind: Kind | None = None
        self._name = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._hopeless: list[Kind] = []

    def command(
        self, cold: Sequence[str], adapter: str, environ: Mapping[str, str], secrets: Container[str]
    ) -> list[str]:
        """How to start a runner: warm where the slot has a server of this kind, else as `cold` says.

        The slot learns what was asked for, without the values of `secrets`.
        """
        own = {name: value for name, value in environ.items() if name not in (LEASE_VARIABLE, _GPUS)}
        kind = Kind(cold[0], adapter, {name: value for name, value in own.items() if name not in secrets})
        os.pwrite(self._asked, json.dumps(asdict(kind)).encode(), 0)
        if self._process is None or kind != self._kind:
            return list(cold)
        keeper = json.dumps(adopting_program(self._grace_s))
        return [sys.executable, "-I", "-S", str(_RELAY), self._name, keeper, *cold]

    def tend(self) -> None:
        """After a run, in the slot's main thread: see to it that the next one like it can start warm."""
        text = os.pread(self._asked, os.fstat(self._asked).st_size, 0)
        os.truncate(self._asked, 0)
        if not text:
            return
        kind = Kind(**json.loads(text))
        again, self._last = kind == self._last, kind
        self._look_after()
        if kind == self._kind or kind in self._hopeless:
            return
        # Two kinds that take turns must not start a server each time.
        if self._process is None or again:
            self.stop()
            self._start(kind)

    def serving(self) -> bool:
        """Whether the next run of the server's kind would start warm."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            try:
                visitor.connect(f"\0{self._name}")
            except OSError:
                return False
        return True

    def _look_after(self) -> None:
        code = None if self._process is None else self._process.poll()
        if code is None:
            return
        # One that was killed, or has retired, may come again; one that cannot do it is not tried again.
        if 0 < code < _ENDED_BY_SIGNAL and self._kind is not None:
            logger.warning("runs of %s start cold: its fork server ended with code %s", self._kind.python, code)
            self._hopeless.append(self._kind)
        self._process = self._kind = None

    def _start(self, kind: Kind) -> None:
        self._name = f"lmms-warm-{uuid.uuid4().hex}"
        command = [kind.python, *FORK_SERVER, self._name, kind.adapter]
        self._process = subprocess.Popen(
            kept_command(command, _SERVER_GRACE_S),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**kind.environ, _GPUS: "", LEASE_VARIABLE: _ROOM},
            start_new_session=True,
        )
        self._kind = kind

    def stop(self) -> None:
        """End the server, which ends what it has started."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._process = self._kind = None
