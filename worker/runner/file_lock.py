"""A lock between processes, on one machine or on a shared folder: a locked file, given up when its holder ends.

Linux. It knows nothing of what is locked.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_EVERY_S = 0.2


@contextmanager
def locked(file: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock, waiting for as long as another holds it; `on_wait` is called each time it is found held."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        while not _try(stream.fileno()):
            on_wait()
            time.sleep(_LOOK_EVERY_S)
        yield


def is_free(file: Path) -> bool:
    """Whether nobody holds the lock now."""
    try:
        with file.open("ab") as stream:
            return _try(stream.fileno())
    except OSError:
        return False


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
