"""Find and end every process that runs under a lease, wherever it moved to. Linux: it reads ``/proc``.

A process belongs to a lease when it is in the lease's control group, or was started with the lease's mark in its
environment, or descends from such a process, or shares a session with one. So children that called ``setsid`` or lost
their parent are found too; one that did all of that and emptied its environment, where control groups can be made.
It knows nothing of queues or runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker import cgroup

#: Environment variable that marks the processes of a lease.
LEASE_VARIABLE = "LMMS_LEASE"

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 0.02
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Process:
    """One process as ``/proc/<pid>/stat`` shows it; `started` tells it from a later one with the same pid."""

    pid: int
    parent: int
    session: int
    started: int


def processes_of(mark: str) -> list[Process]:
    """The living processes of the lease with this mark, this process and its session left out."""
    alive = {process.pid: process for process in _processes()}
    found = {pid for pid in alive if _marked(pid, mark) or cgroup.holds(mark, pid)}
    own_session = os.getsid(0)
    sessions = {alive[pid].session for pid in found} - {own_session}
    while True:
        more = {
            process.pid
            for process in alive.values()
            if process.pid not in found and (process.parent in found or process.session in sessions)
        }
        if not more:
            break
        found |= more
        sessions |= {alive[pid].session for pid in more} - {own_session}
    return [alive[pid] for pid in sorted(found - {os.getpid()})]


def enclose(pid: int, mark: str) -> bool:
    """Let the kernel keep account of a process that was just started, and of all that it starts.

    Call it before the process's child, if it has one already, can have started anything.

    Returns:
        Whether this process may make control groups.
    """
    if not cgroup.add(mark, pid):
        return False
    for process in _processes():
        if process.parent == pid:
            cgroup.add(mark, process.pid)
    return True


def kill_all(mark: str, patience_s: float = 10.0) -> int:
    """Kill the lease's processes until none is left, new ones included; return how many were killed.

    One that cannot be killed (stuck in the kernel) is left after `patience_s`.
    """
    killed: set[tuple[int, int]] = set()
    deadline = time.monotonic() + patience_s
    while (left := processes_of(mark)) and time.monotonic() < deadline:
        for process in left:
            if send(process, signal.SIGKILL):
                killed.add((process.pid, process.started))
        cgroup.kill(mark)
        time.sleep(_LOOK_EVERY_S)
    cgroup.tidy()
    return len(killed)


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it has ended, also when its pid was given to another."""
    try:
        handle = os.pidfd_open(process.pid)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        now = _read(process.pid)
        if now is None or now.started != process.started:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(handle)


def end_with_parent(number: signal.Signals, parent: int) -> bool:
    """Have the kernel send this process a signal when its parent ends; False when `parent` has ended already.

    Hazard: it is the parent's *thread* that counts. Fork from a thread that lives as long as the process.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def _processes() -> list[Process]:
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [process for pid in pids if (process := _read(pid)) is not None]


def _read(pid: int) -> Process | None:
    """The process, or None when it has ended (a zombie has)."""
    try:
        # The name in parentheses may hold spaces and parentheses itself.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in ("Z", "X"):
        return None
    return Process(pid=pid, parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


def _marked(pid: int, mark: str) -> bool:
    with suppress(OSError):
        entries = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        return f"{LEASE_VARIABLE}={mark}".encode() in entries
    return False
