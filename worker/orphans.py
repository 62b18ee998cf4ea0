"""Ends the afterlife of processes whose parent is gone: without an init (in a container) they would stay as zombies.

Linux. A process that somebody here waits for is left to that one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(waited_for: Collection[int]) -> int:
    """Reap children that have ended, but for those that somebody waits for; returns how many."""
    reaped = 0
    for pid in _children():
        if pid in waited_for:
            continue
        try:
            reaped += os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:  # somebody was quicker
            continue
    return reaped


def _children() -> list[int]:
    found = []
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - not a folder of files
        try:
            with open(f"/proc/self/task/{task}/children", "rb") as listed:  # noqa: PTH123
                found += [int(word) for word in listed.read().split()]
        except OSError:  # the thread has ended, or the kernel lists no children
            continue
    return found
