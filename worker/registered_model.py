"""The files of a registered model on this box: downloaded once per version, complete or not there at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import mlflow.artifacts
import requests
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import StorageFullError, UnavailableError
from mlflow_lmms.work_order import ResolvedModel

_FOLDER = "models"


def model_folder(model: ResolvedModel, data_folder: Path, server_url: str) -> Path:
    """The folder with the model's files, downloaded if it is not here yet.

    Raises:
        UnavailableError: they cannot be had now.
        StorageFullError: there is no space for them.
    """
    assert model.artifact_uri is not None, "only a model with files of its own has a folder"
    known_by = hashlib.sha256(f"{server_url} {model.artifact_uri} {model.content}".encode()).hexdigest()[:16]
    models = data_folder.absolute() / _FOLDER
    target = models / f"{_plain(model.name)}-{model.version}-{known_by}"
    if target.is_dir():
        os.utime(target)  # the time of last use
        return target
    models.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=models))
    try:
        there = mlflow.artifacts.download_artifacts(
            artifact_uri=model.artifact_uri, dst_path=str(scratch), tracking_uri=server_url
        )
        return _put(Path(there), target)
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise _unavailable(model, error) from None
        raise StorageFullError(f"the files of {model.label} cannot be stored in {models}: {error}") from None
    except MlflowException as error:
        raise _unavailable(model, error.message) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put(downloaded: Path, target: Path) -> Path:
    try:
        downloaded.rename(target)
    except OSError:
        if not target.is_dir():  # another slot was faster
            raise
    return target


def _unavailable(model: ResolvedModel, why: object) -> UnavailableError:
    return UnavailableError(f"the files of {model.label} cannot be downloaded from {model.artifact_uri}: {why}")


def _plain(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)[:80]
