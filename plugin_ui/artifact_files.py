"""Artifacts of runs as local files: the file itself where the store is a folder, else a copy kept for a short time.

A copy is fetched again after a minute, because a retry replaces artifacts under the same name.
"""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from pathlib import Path

from plugin_ui import mlflow_server

_KEPT_S = 60.0
_KEPT_FILES = 64


class ArtifactFiles:
    """Reads and writes artifacts of runs; safe to share between threads."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lmms-artifacts-")
        self._copies: OrderedDict[tuple[str, str], tuple[float, Path]] = OrderedDict()
        self._lock = threading.Lock()

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
            self._copies.pop((run_id, f"{folder}/{file.name}"), None)

    def close(self) -> None:
        """Remove the copies; nothing is to be fetched afterwards."""
        self._folder.cleanup()

    def _kept(self, run_id: str, path: str) -> Path | None:
        with self._lock:
            fetched, file = self._copies.get((run_id, path), (0.0, None))
        return file if file is not None and time.monotonic() - fetched < _KEPT_S else None

    def _download(self, artifact: mlflow_server.Artifact, run_id: str, path: str) -> Path:
        folder = Path(self._folder.name) / uuid.uuid4().hex
        folder.mkdir()
        file = artifact.download(folder)
        with self._lock:
            self._copies[run_id, path] = (time.monotonic(), file)
            self._copies.move_to_end((run_id, path))
            while len(self._copies) > _KEPT_FILES:
                _, (_, oldest) = self._copies.popitem(last=False)
                oldest.unlink(missing_ok=True)
        return file
