"""Copies the answers so far, while they may still be written: databases whole and consistent, other files as is.

What is in them is the runner's matter.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_SQLITE = b"SQLite format 3\0"
#: What SQLite keeps beside a database; a copy has it inside.
_SIDE_FILES = ("-wal", "-shm", "-journal")
_PATIENCE_S = 30.0
#: Anything that may go wrong while somebody else writes.
COPY_ERRORS = (OSError, sqlite3.Error)

#: Path within the folder → size and time of change; equal ones mean that nothing was written.
Fingerprint = dict[str, tuple[int, int]]


def fingerprint(folder: Path) -> Fingerprint:
    """What shows whether the folder has changed, side files included."""
    found = {}
    for path in _files(folder):
        try:
            status = path.stat()
        except OSError:  # it is gone meanwhile
            continue
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


def copy_cache(source: Path, target: Path) -> None:
    """Copy the folder `source` into the new folder `target`.

    Raises:
        OSError, sqlite3.Error: a file could not be read or written.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in _files(source):
        if path.name.endswith(_SIDE_FILES):
            continue
        copy = target / path.relative_to(source)
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_database(path):
            _copy_database(path, copy)
        else:
            shutil.copy2(path, copy)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _copy_database(path: Path, copy: Path) -> None:
    with (
        closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
