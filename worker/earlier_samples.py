"""Brings the samples of earlier attempts to this box, so that their answers can be scored again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import mlflow.artifacts
import requests
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import InvalidRequestError, UnavailableError
from mlflow_lmms.names import Artifact
from worker.runner.output_files import escape


def fetch_samples(run_id: str, tasks: Iterable[str], folder: Path, server_url: str) -> None:
    """Put the samples table of each task into `folder`, under the name that the runner looks for.

    Raises:
        InvalidRequestError: a task has none. UnavailableError: they cannot be had now.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for task in tasks:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            there = _download(run_id, task, scratch, server_url)
            Path(there).replace(folder / f"{escape(task)}.parquet")


def _download(run_id: str, task: str, scratch: str, server_url: str) -> str:
    try:
        return mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=Artifact.samples(task), dst_path=scratch, tracking_uri=server_url
        )
    except requests.RequestException as error:
        raise UnavailableError(f"the samples of {task} cannot be downloaded now: {error}") from None
    except (MlflowException, OSError) as error:
        raise InvalidRequestError(
            f"run {run_id} has no samples of {task} that could be scored again ({error}): evaluate the task anew"
        ) from None
