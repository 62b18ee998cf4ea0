"""Whose processes use a GPU: those of a lease, or somebody else's. Linux: it reads ``/proc``.

The driver numbers processes as the whole machine does. In a container with numbers of its own they cannot be
compared; there, what is used beyond what the queue's own work may use counts as somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from worker.gpu_inventory import Gpu, GpuProcess
from worker.process_tree import LEASE_VARIABLE

#: On a GPU that is given whole, others may use as much: a desktop, a monitor.
FOREIGN_LIMIT = 500 << 20

_PROC = Path("/proc")
#: The kernel's fixed number of the first process namespace, the one whose numbers the driver uses.
_MACHINE_NAMESPACE = "pid:[4026531836]"
_MOST_FOREFATHERS = 64


def lease_of(pid: int) -> str | None:
    """The mark of the lease under which a process runs: its own, a forefather's, or its session's; None: none."""
    seen: set[int] = set()
    while pid > 1 and pid not in seen and len(seen) < _MOST_FOREFATHERS:
        seen.add(pid)
        if (mark := _mark(pid)) is not None:
            return mark
        parent, session = _parent_and_session(pid)
        if session not in (0, pid) and (mark := _mark(session)) is not None:
            return mark
        pid = parent
    return None


def numbers_match(processes: Sequence[GpuProcess]) -> bool:
    """Whether the driver's process numbers are those of ``/proc`` here."""
    with suppress(OSError):
        if str((_PROC / "self" / "ns" / "pid").readlink()) == _MACHINE_NAMESPACE:
            return True
    return bool(processes) and all((_PROC / str(process.pid)).exists() for process in processes)


def own_memory(gpu: Gpu, is_ours: Callable[[int], bool]) -> int | None:
    """Bytes of a GPU that our processes use; all that is used where the driver does not tell whose it is."""
    if gpu.processes is None or not numbers_match(gpu.processes):
        return gpu.used
    ours = [process.memory for process in gpu.processes if is_ours(process.pid)]
    known = [memory for memory in ours if memory is not None]
    return sum(known) if len(known) == len(ours) else gpu.used


def foreign_memory(gpu: Gpu, is_ours: Callable[[int], bool], held: int) -> int:
    """Bytes of a GPU that others use; `held` is what our leases may use of it, for want of process numbers."""
    used = gpu.used or 0
    if gpu.processes is None or not numbers_match(gpu.processes):
        return max(0, used - held)
    others = [process.memory for process in gpu.processes if not is_ours(process.pid)]
    told = sum(memory for memory in others if memory is not None)
    if None not in others:
        return told
    ours = sum(process.memory or 0 for process in gpu.processes if is_ours(process.pid))
    return max(told, used - max(ours, held))


def _mark(pid: int) -> str | None:
    start = f"{LEASE_VARIABLE}=".encode()
    with suppress(OSError):
        for entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if entry.startswith(start):
                return entry.removeprefix(start).decode(errors="replace") or None
    return None


def _parent_and_session(pid: int) -> tuple[int, int]:
    with suppress(OSError, IndexError, ValueError):
        # The name in parentheses may hold spaces and parentheses itself.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[1]), int(fields[3])
    return 0, 0
