"""A control group (cgroup v2) for a lease's processes, where this process may make one below its own.

The kernel then knows each of them, whatever it did to its session, parent and environment, and kills them at once.
Where none can be made (no such hierarchy, no right to write there) nothing is done. Leases are not known here.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_MOUNTS = _PROC / "self" / "mountinfo"
#: What the line of the unified hierarchy begins with in ``/proc/<pid>/cgroup``.
_UNIFIED = "0::"
_PREFIX = "lmms-"
_ATTEMPTS = 3


def group_name(mark: str) -> str:
    """Name of the group of the processes with this mark."""
    return f"{_PREFIX}{hashlib.sha256(mark.encode()).hexdigest()[:24]}"


def own_group() -> Path | None:
    """The folder of this process's own group; None where there is none, or where it cannot be seen."""
    path = _path_of("self")
    if path is None:
        return None
    for line in _MOUNTS.read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = mount.split()[3:5]
        inside = path == root or path.startswith(root.rstrip("/") + "/")
        if kind.startswith("cgroup2 ") and inside:
            folder = Path(point) / path.removeprefix(root).lstrip("/")
            return folder if folder.is_dir() else None
    return None


def add(mark: str, pid: int) -> bool:
    """Put a process into the mark's group, which is made for it; what it starts from now on belongs there too.

    Returns:
        False where no group can be made, or the process has ended.
    """
    own = own_group()
    if own is None:
        return False
    group = own / group_name(mark)
    for _ in range(_ATTEMPTS):
        try:
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(pid))
            return True
        except FileNotFoundError:  # another slot has just tidied up
            continue
        except OSError:
            break
    tidy()
    return False


def kill(mark: str) -> None:
    """Kill all processes of the mark's group at once, if there is one; a kernel before 5.14 cannot."""
    if (own := own_group()) is not None:
        with suppress(OSError):
            (own / group_name(mark) / "cgroup.kill").write_text("1")


def tidy() -> None:
    """Remove the groups in which nothing is left, also those of workers that were killed."""
    for group in () if (own := own_group()) is None else own.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, or gone
            group.rmdir()


def holds(mark: str, pid: int) -> bool:
    """Whether a process is in the mark's group, wherever that was made."""
    path = _path_of(str(pid))
    return path is not None and group_name(mark) in path.split("/")


def _path_of(process: str) -> str | None:
    with suppress(OSError):
        for line in (_PROC / process / "cgroup").read_text().splitlines():
            if line.startswith(_UNIFIED):
                return line.removeprefix(_UNIFIED)
    return None
