"""The files below ``lmms/`` in a run's artifacts: which there are, and where MLflow serves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlencode

from flask import request
from mlflow.exceptions import MlflowException

from mlflow_lmms.names import Artifact
from plugin_ui import mlflow_server

_MOST = 500


@dataclass(frozen=True)
class StoredFile:
    """One file; `path` is inside the run's artifacts, `size` in bytes where the store tells it."""

    path: str
    size: int | None
    url: str


def stored_files(run_id: str) -> list[StoredFile]:
    """Every file that an evaluation has stored, folders after the files beside them."""
    try:
        return [file for file, _ in zip(_walk(run_id, Artifact.ROOT), range(_MOST), strict=False)]
    except (MlflowException, OSError):
        return []  # the store is away: the page is worth showing without its files


def artifact_url(run_id: str, path: str) -> str:
    """Address under which MLflow itself serves an artifact, with its own permission check and as a download."""
    return f"{request.script_root}/get-artifact?{urlencode({'run_uuid': run_id, 'path': path})}"


def _walk(run_id: str, folder: str) -> Iterator[StoredFile]:
    place = mlflow_server.artifact(run_id, folder)
    found = place.repository.list_artifacts(place.path)
    named = [(f"{folder}/{PurePosixPath(entry.path).name}", entry) for entry in found]
    for path, entry in named:
        if not entry.is_dir:
            yield StoredFile(path, entry.file_size, artifact_url(run_id, path))
    for path, entry in named:
        if entry.is_dir:
            yield from _walk(run_id, path)
