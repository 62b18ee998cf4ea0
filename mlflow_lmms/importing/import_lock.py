"""Of two imports of one results file on this machine the second waits for the first."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def import_lock(tracking_uri: str, key: str) -> Iterator[None]:
    """Hold the lock of one import key at one MLflow server; the kernel lets it go when the process dies."""
    folder = Path(tempfile.gettempdir()) / f"mlflow-lmms-import-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(f"{tracking_uri}\n{key}".encode()).hexdigest()[:32]
    # Not through a link that somebody else put there.
    handle = os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
