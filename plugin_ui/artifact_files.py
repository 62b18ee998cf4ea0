"""Artifacts of runs as local files: the file itself where the store is a folder, else a copy kept for a short time.

A copy is fetched again after a minute, because a retry replaces artifacts under the same name.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from plugin_ui import mlflow_server

_KEPT_S = 60.0
_KEPT_FILES = 64


@dataclass
class _Copy:
    folder: Path
    file: Path
    fetched_at: float


class ArtifactFiles:
    """Reads and writes artifacts of runs; safe to share between threads."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="lmms-artifacts-")
        self._copies: OrderedDict[tuple[str, str], _Copy] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the copies are; it goes with the process."""
        return Path(self._temporary.name)

    def fetch(self, run_id: str, path: str) -> Path:
        """The artifact as a local file, to be read at once and not to be changed.

        Raises:
            NotFoundError: no such run or artifact.
            InvalidRequestError: a path that leaves the run's artifacts.
        """
        copy = self._kept(run_id, path)
        if copy is not None:
            return copy
        artifact = mlflow_server.artifact(run_id, path)
        return artifact.local_path() or self._download(artifact, run_id, path)

    def store(self, run_id: str, file: Path, folder: str) -> None:
        """Put a local file into a folder of the run's artifacts, replacing one of the same name.

        Raises:
            NotFoundError: no such run.
            InvalidRequestError: a folder that is not inside the run's artifacts.
        """
        mlflow_server.artifact(run_id, folder).upload(file)
        with self._lock:
            copy = self._copies.get((run_id, f"{folder}/{file.name}"))
            if copy is not None:
                copy.fetched_at = -math.inf

    def close(self) -> None:
        """Remove the copies; nothing is to be fetched afterwards."""
        self._temporary.cleanup()

    def _kept(self, run_id: str, path: str) -> Path | None:
        with self._lock:
            copy = self._copies.get((run_id, path))
        return copy.file if copy is not None and time.monotonic() - copy.fetched_at < _KEPT_S else None

    def _download(self, artifact: mlflow_server.Artifact, run_id: str, path: str) -> Path:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        copy = _Copy(folder, artifact.download(folder), time.monotonic())
        with self._lock:
            replaced = self._copies.pop((run_id, path), None)
            self._copies[run_id, path] = copy
            surplus = [self._copies.popitem(last=False)[1] for _ in range(len(self._copies) - _KEPT_FILES)]
        # Who reads one of them now has opened it: the contents stay until it is closed.
        for old in filter(None, [replaced, *surplus]):
            shutil.rmtree(old.folder, ignore_errors=True)
        return copy.file
