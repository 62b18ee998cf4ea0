"""The files of a registered model on this box: downloaded once per version, complete or not there at all.

Several slots and the fetcher may want the same model: one downloads, the others wait. What was downloaded before a
kill is not downloaded again, file by file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_lmms.errors import StorageFullError, UnavailableError
from mlflow_lmms.work_order import ResolvedModel
from worker.runner.fetch_events import FetchError
from worker.runner.fetch_space import Growth, check_space
from worker.runner.file_lock import locked

_FOLDER = "models"
_LOCKS = "model-locks"

#: Told how many bytes of how many are there; both 0 while another process is at it.
Tell = Callable[[int, int], None]


def model_folder(
    model: ResolvedModel,
    data_folder: Path,
    server_url: str,
    *,
    reserve: int = 0,
    tell: Tell = lambda done, total: None,
) -> Path:
    """The folder with the model's files, downloaded if it is not here yet.

    Raises:
        UnavailableError: they cannot be had now.
        StorageFullError: there is no space for them, with `reserve` bytes left free.
    """
    assert model.artifact_uri is not None, "only a model with files of its own has a folder"
    known_by = hashlib.sha256(f"{server_url} {model.artifact_uri} {model.content}".encode()).hexdigest()[:16]
    models = data_folder.absolute() / _FOLDER
    target = models / f"{_plain(model.name)}-{model.version}-{known_by}"
    if target.is_dir():
        os.utime(target)  # the time of last use
        return target
    try:
        models.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(models.with_name(_LOCKS) / f"{target.name}.lock", lambda: tell(0, 0)):
            if not target.is_dir():  # another process was faster
                half = models / f".download-{target.name}"
                _download(model, server_url, half, reserve, tell)
                half.rename(target)
    except FetchError as error:
        raise StorageFullError(str(error)) from None
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise _unavailable(model, error) from None
        raise StorageFullError(f"the files of {model.label} cannot be stored in {models}: {error}") from None
    except MlflowException as error:
        raise _unavailable(model, error.message) from None
    return target


def _download(model: ResolvedModel, server_url: str, half: Path, reserve: int, tell: Tell) -> None:
    """Bring what is missing into `half`; a file appears there when it is complete."""
    repository: Any = get_artifact_repository(str(model.artifact_uri), tracking_uri=server_url)
    sizes = dict(_files(repository))
    if not sizes:
        raise _unavailable(model, "there is no file")
    half.mkdir(exist_ok=True)
    scratch = half.with_name(f"{half.name}.now")
    shutil.rmtree(scratch, ignore_errors=True)  # of a download that was killed; the lock is ours
    missing = [path for path, size in sizes.items() if not _is_there(half / path, size)]
    total, needed = sum(sizes.values()), sum(sizes[path] for path in missing)
    check_space(model.label, half, needed, reserve)
    try:
        with Growth(scratch.parent, total - needed, total, tell):
            for path in missing:
                scratch.mkdir(exist_ok=True)
                there = Path(repository.download_artifacts(path, dst_path=str(scratch)))
                (half / path).parent.mkdir(parents=True, exist_ok=True)
                there.rename(half / path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _files(repository: Any, below: str | None = None) -> Iterator[tuple[str, int]]:
    for entry in repository.list_artifacts(below):
        if entry.is_dir:
            yield from _files(repository, entry.path)
        elif ".." not in PurePosixPath(entry.path).parts and not PurePosixPath(entry.path).is_absolute():
            yield entry.path, int(entry.file_size or 0)


def _is_there(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _unavailable(model: ResolvedModel, why: object) -> UnavailableError:
    return UnavailableError(f"the files of {model.label} cannot be downloaded from {model.artifact_uri}: {why}")


def _plain(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)[:80]
