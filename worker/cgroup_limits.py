"""How many processors and how much memory this process may use: its control groups' limits, v1 and v2. Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
#: Version 1 writes "no limit" as a number near the largest one.
_NO_LIMIT = 1 << 60


def cpu_limit(groups: Path = _GROUPS, own: Path = _OWN) -> float:
    """Processors that may be used; a fraction where a quota says so."""
    limits = [float(len(os.sched_getaffinity(0)))]
    for folder in _folders("", groups, own):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit():
            limits.append(int(words[0]) / int(words[1]))
    for folder in _folders("cpu", groups, own):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            limits.append(int(quota) / int(period))
    return min(limits)


def memory_limit(groups: Path = _GROUPS, own: Path = _OWN) -> int | None:
    """Bytes of the machine's memory that may be used; None: as many as there are."""
    texts = [_read(folder / "memory.max") for folder in _folders("", groups, own)]
    texts += [_read(folder / "memory.limit_in_bytes") for folder in _folders("memory", groups, own)]
    return min((int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT), default=None)


def _folders(controller: str, groups: Path, own: Path) -> Iterator[Path]:
    """The groups that this process is in, the innermost first; in a container the mount may begin at its own."""
    root = groups / controller
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            inner = root / path.strip("/")
            while inner != root and root in inner.parents:
                yield inner
                inner = inner.parent
    yield root


def _read(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="ascii", errors="replace").strip()
    return ""
