"""Whether a download fits on the disk, and how far it is, by what lies in its folder. Standard library alone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.runner.fetch_events import FetchError

_LOOK_EVERY_S = 0.5


def check_space(name: str, folder: Path, needed: int, reserve: int) -> None:
    """Refuse a download that would leave less than `reserve` bytes free in `folder`.

    Raises:
        FetchError: it does not fit; with what to do.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed and needed > free - reserve:
        raise FetchError(
            f"{name} needs {gigabytes(needed)} more, and {folder} has {gigabytes(free)} free, of which "
            f"{gigabytes(reserve)} are to stay free (MLFLOW_LMMS_DISK_RESERVE_GB): make room there, or use another"
        )


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder, half downloaded ones included."""
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:  # renamed or removed meanwhile
            continue
    return total


def gigabytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"


class Growth:
    """While it is open, tells how many bytes of `total` are there: those at the start, and those that have come."""

    def __init__(self, folder: Path, already: int, total: int, tell: Callable[[int, int], None]) -> None:
        self._folder, self._already, self._total, self._tell = folder, already, total, tell
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="growth", daemon=True)

    def __enter__(self) -> Self:
        self._start = folder_size(self._folder)
        self._tell(self._already, self._total)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            grown = max(0, folder_size(self._folder) - self._start)
            self._tell(min(self._already + grown, self._total), self._total)
