"""One running stack (server, queue, worker) for all tests in this folder, with the digits models registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmms_digits
import pytest
from lmms_digits.train import train
from mlflow import MlflowClient
from running_stack import SECRET, RunningStack, write_faulty_tasks

from mlflow_lmms.registry import ModelDescription, register_model


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`mlflow-lmms up` in a folder of its own; models are called after how they read digits."""
    folder = tmp_path_factory.mktemp("stack")
    faulty = write_faulty_tasks(folder / "faulty")
    running = RunningStack(
        folder,
        task_folders=[lmms_digits.tasks_folder(), faulty],
        environ={"OPENAI_API_KEY": SECRET, "MLFLOW_LMMS_LEASE_TTL_S": "6"},
    )
    with running:
        client = MlflowClient(running.url)
        for name, files in train(folder / "models").items():
            register_model(client, name, ModelDescription(adapter="digits", files=files, gpus=0))
        yield running


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the k-nearest-neighbours model, for the bare command."""
    return Path(train(tmp_path_factory.mktemp("bare"))["k-nearest-neighbours"])
