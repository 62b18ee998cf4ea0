"""Start programs that cannot outlive their starter, however that ends (``kill -9`` included). Linux.

`tied_command` ends one process with its starter; `kept_command` puts a small keeper in between that ends a whole
tree: children that moved to another session or lost their parent are found too; a process that has forked such a
child already becomes its keeper with `adopting_program`. The file runs itself as a script by path, so it imports the
standard library only and knows nothing of what it starts.

Hazard: the kernel ties a process to the *thread* that started it. Start from a thread that lives as long.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST_GRACE_S = 2.0
_CANNOT_START = 127
_WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def tied_command(command: Sequence[str]) -> list[str]:
    """Return `command` such that its process is killed with this one; its pid is the program's own."""
    return _script("tied", "0", command)


def kept_command(command: Sequence[str], grace_s: float) -> list[str]:
    """Return `command` under a keeper whose end, or SIGTERM to it, ends everything that `command` started.

    The program gets SIGTERM and `grace_s` seconds, whatever is left of its tree a little more, then SIGKILL.
    The keeper exits with the program's code (128 + signal when a signal ended it).
    """
    return _script("kept", str(grace_s), command)


def adopting_program(grace_s: float) -> list[str]:
    """Return what a process executes, its parent's and its child's pid added, to become that child's keeper.

    It must have blocked the watched signals before it forked, or one of them may end it too early.
    """
    return [sys.executable, "-I", "-S", __file__, "adopted", str(grace_s)]


def _script(mode: str, grace: str, command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", __file__, mode, str(os.getpid()), grace, *command]


def _main(mode: str, *arguments: str) -> int:
    if mode == "adopted":
        grace, parent, *command = arguments
    else:
        parent, grace, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if mode == "tied" else signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the line above
        return 128 + signal.SIGKILL
    if mode == "tied":
        return _execute(command)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Watched signals stay blocked and are waited for, so none gets lost between two looks.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    if mode == "adopted":
        return _keep(int(command[0]), float(grace))
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        os._exit(_execute(command) if os.getppid() == keeper else _CANNOT_START)
    return _keep(child, float(grace))


def _execute(command: Sequence[str]) -> int:
    try:
        os.execvp(command[0], [*command])  # noqa: S606 - an argument list, no shell
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
        return _CANNOT_START


def _keep(child: int, grace_s: float) -> int:
    code = None
    kill_at = float("inf")
    while code is None:
        code = _reap(child)
        now = time.monotonic()
        if code is not None or now >= kill_at:
            break
        came = signal.sigtimedwait(_WATCHED, min(kill_at - now, 3600.0))
        if came is not None and came.si_signo != signal.SIGCHLD and kill_at == float("inf"):
            _send([child], signal.SIGTERM)
            kill_at = time.monotonic() + grace_s
    end = time.monotonic() + _LAST_GRACE_S
    _send(_descendants(), signal.SIGTERM)
    while left := _descendants():
        if time.monotonic() >= end:
            _send(left, signal.SIGKILL)
        signal.sigtimedwait((signal.SIGCHLD,), 0.05)
        status = _reap(child)
        code = status if status is not None else code
    return 128 + signal.SIGKILL if code is None else code


def _reap(child: int) -> int | None:
    """Collect every ended process; return the child's exit code when it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold spaces and parentheses itself.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, open_pids = [], [os.getpid()]
    while open_pids:
        below = children.get(open_pids.pop(), [])
        found += below
        open_pids += below
    return found


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
