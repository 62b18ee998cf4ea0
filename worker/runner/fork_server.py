"""Warm start, the evaluation environment's side: imports once, then forks a copy of itself for each run.

``python -m worker.runner.fork_server NAME ADAPTER`` listens on the abstract Unix socket NAME. A run's place-holder
(`worker.warm_relay`) hands its descriptors, variables and folder over; the copy takes them and goes on as
``python -m worker.runner`` would. Nothing of a run ever enters the server itself, so that none of its secrets can
reach the next one. Whenever something is not as it should be, it refuses, and the place-holder starts cold.

Processes: the server forks a keeper-to-be in a session of its own, which forks the runner and then executes the
program that the place-holder named, to keep the runner (see `mlflow_lmms.kept_process`). Linux.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from worker.runner.events import DESCRIPTOR_VARIABLE
from worker.runner.fork_safety import ImportWatch
from worker.runner.lease_place import LEASE_VARIABLE, LeasePlace

#: Exit status: this environment cannot be copied, so there is no use in starting the server again.
UNSAFE = 3
_OWN_TO_A_RUN = (LEASE_VARIABLE, DESCRIPTOR_VARIABLE, "CUDA_VISIBLE_DEVICES")
_MOST_RUNS = 50
_OLDEST_S = 4 * 3600.0
_IDLE_S = 1800.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_DESCRIPTORS = 5
_libc = ctypes.CDLL(None, use_errno=True)


def main(name: str, adapter: str) -> int:
    """Import, and serve until told to stop, too old or idle."""
    place = LeasePlace.find()
    watch = ImportWatch()
    with watch:
        _preload(adapter)
    reason = watch.unsafe()
    if reason is not None and adapter:  # the adapter may be to blame: then each run imports it for itself
        again = [*sys.orig_argv[:-1], ""]
        os.execve(sys.executable, again, watch.environ)  # noqa: S606 - an argument list, no shell
    if reason is None and place is None:
        reason = f"it was started without {LEASE_VARIABLE}"
    if reason is not None or place is None:
        sys.stderr.write(f"warm start is not possible here: {reason}\n")
        return UNSAFE
    gc.collect()
    gc.freeze()  # what is never touched stays shared
    _Server(name, watch, place).serve()
    return 0


def _preload(adapter: str) -> None:
    """Import what every run imports, in the order in which it does."""
    import worker.runner.bars
    import worker.runner.evaluation
    import worker.runner.log_capture
    import worker.runner.remote_code  # noqa: F401
    from worker.runner.own_tasks import index_own_tasks

    index_own_tasks()
    if adapter:
        from lmms_eval import models

        if adapter in models.list_available_models(include_aliases=True):
            models.get_model(adapter)


class _Server:
    """Takes one connection per run."""

    def __init__(self, name: str, watch: ImportWatch, place: LeasePlace) -> None:
        self._watch = watch
        self._place = place
        self._pid = os.getpid()
        self._began = self._last = time.monotonic()
        self._count = 0
        self._keepers: dict[int, tuple[int, socket.socket]] = {}
        self._listener: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0{name}")
        self._listener.listen(8)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        # A forked copy need not hear that it is one of several threads: the harmless ones are known.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)

    def serve(self) -> None:
        """Serve until retired and without runs."""
        while self._listener is not None or self._keepers:
            told = {descriptor for descriptor, _ in self._epoll.poll(_IDLE_S / 60)}
            for descriptor in told & {*self._keepers}:
                self._ended(descriptor)
            for keeper, connection in self._keepers.values():
                if connection.fileno() in told:
                    self._stop(keeper, connection)
            # Last, since a new connection may have the number of one that has just been closed.
            if self._listener is not None and self._listener.fileno() in told:
                self._accept(self._listener)
            now = time.monotonic()
            idle = not self._keepers and now - self._last > _IDLE_S
            if idle or now - self._began > _OLDEST_S or self._count >= _MOST_RUNS:
                self._retire()

    def _retire(self) -> None:
        if self._listener is not None:
            self._epoll.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            connection.close()
            return
        self._last = time.monotonic()
        self._count += 1
        keeper = -1
        if (reason := self._watch.stale()) is None:
            signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)  # a keeper-to-be must not lose one, nor die of it
            try:
                keeper = os.fork()
            except OSError as error:  # no memory, too many processes
                reason = f"it cannot fork: {error}"
        if keeper == 0:
            self._become_run(connection)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        if reason is not None:
            with suppress(OSError):
                connection.sendall(f"no: {reason}\n".encode())
            connection.close()
            self._retire()
            return
        handle = os.pidfd_open(keeper)
        self._keepers[handle] = (keeper, connection)
        self._epoll.register(handle, select.EPOLLIN)
        # What the place-holder writes is for the copy; here only its end counts.
        self._epoll.register(connection, select.EPOLLRDHUP)

    def _stop(self, keeper: int, connection: socket.socket) -> None:
        """The place-holder has ended, or wants the run to."""
        self._epoll.unregister(connection)
        os.kill(keeper, signal.SIGTERM)  # not reaped yet, so the pid is its own

    def _ended(self, handle: int) -> None:
        keeper, connection = self._keepers.pop(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
        self._epoll.unregister(handle)
        os.close(handle)
        self._last = time.monotonic()
        if code < 0:  # somebody killed the keeper: what it kept goes with this server
            self._retire()
        with suppress(FileNotFoundError):  # it was asked to stop
            self._epoll.unregister(connection)
        with suppress(OSError):  # nobody may wait for it any more
            connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
        connection.close()

    def _become_run(self, connection: socket.socket) -> NoReturn:
        """In the copy: take over what the place-holder hands over; never returns."""
        try:
            self._leave_server()
            os.setsid()
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
            run = _HandedOver.receive(connection)
            if run is None:
                os._exit(0)
            for number in range(3):
                os.dup2(run.descriptors[number], number)
            keeper = os.getpid()
            if (child := os.fork()) == 0:
                _go_on(run, connection, self._watch, self._place, keeper)
            program = [*run.keeper, str(self._pid), str(child)]
            os.execve(program[0], program, run.environ)  # noqa: S606 - an argument list, no shell
        finally:
            traceback.print_exc()
            os._exit(1)

    def _leave_server(self) -> None:
        self._epoll.close()
        if self._listener is not None:
            self._listener.close()
        for handle, (_, connection) in self._keepers.items():
            os.close(handle)
            connection.close()


def _go_on(
    run: _HandedOver, connection: socket.socket, watch: ImportWatch, place: LeasePlace, keeper: int
) -> NoReturn:
    """In the runner-to-be: become what a cold start would be, and run; never returns."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.fchdir(run.descriptors[4])
        os.umask(run.umask)
        events = run.descriptors[3]
        for descriptor in {*run.descriptors} - {0, 1, 2, events}:
            os.close(descriptor)
        environ = {**run.environ, DESCRIPTOR_VARIABLE: str(events)}
        reason = watch.unfit(environ, _OWN_TO_A_RUN) or place.fill(environ.get(LEASE_VARIABLE, ""))
        connection.sendall(f"no: {reason}\n".encode() if reason else b"ready\n")
        if reason is not None or connection.recv(16) != b"go\n" or os.getppid() != keeper:
            os._exit(0)
        connection.close()
        os.environ.update(environ)
        watch.wake()
        run.set_signals()
        runpy.run_module("worker.runner", run_name="__main__", alter_sys=True)  # ends the process by itself
    finally:
        traceback.print_exc()
        os._exit(1)


@dataclass(frozen=True)
class _HandedOver:
    """What the place-holder is: descriptors (standard streams, events, folder), variables and signals."""

    descriptors: list[int]
    environ: dict[str, str]
    keeper: list[str]
    umask: int
    ignored: list[int]
    blocked: list[int]

    @classmethod
    def receive(cls, connection: socket.socket) -> _HandedOver | None:
        """Read it; None when the other side has given up."""
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        while data and not data.endswith(b"\n"):
            more = connection.recv(1 << 16)
            if not more:
                return None
            data += more
        if not data or len(descriptors) != _DESCRIPTORS:
            return None
        fields: dict[str, Any] = json.loads(data)
        return cls(descriptors=descriptors, **fields)

    def set_signals(self) -> None:
        """Treat signals as a process does that the place-holder has started."""
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if number in self.ignored and not ignored:
                signal.signal(number, signal.SIG_IGN)
            elif ignored and number not in self.ignored:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)


if __name__ == "__main__":
    told = sys.argv[1:]
    del sys.argv[1:]  # lmms-eval reads them
    status = main(*told)
    sys.stderr.flush()
    os._exit(status)  # taking the interpreter apart takes seconds
