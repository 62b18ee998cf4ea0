"""The demonstration's content: three small models, registered once and evaluated on the digits benchmark.

It knows the registry, the client and the digits package, and nothing of terminals or processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from mlflow import MlflowClient

from mlflow_lmms.client import Client
from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.model_files import describe_files
from mlflow_lmms.registry import ModelDescription, ModelTag, register_model
from mlflow_lmms.settings import Settings

SUITE = "digits"
ADAPTER = "digits"
_NEEDED = {"lmms_eval": "lmms-eval", "sklearn": "scikit-learn", "PIL": "pillow"}


def check_installed() -> None:
    """Return when everything that an evaluation on this machine needs is installed.

    Raises:
        ConfigurationError: naming what is missing and the command that installs it.
    """
    if missing := _missing():
        raise ConfigurationError(
            f"{', '.join(missing)} not installed, which evaluations on this machine need: "
            "pip install 'mlflow-lmms[local]'"
        )


def _missing() -> list[str]:
    return [package for module, package in _NEEDED.items() if find_spec(module) is None]


def with_digits(settings: Settings) -> Settings:
    """The settings with the digits benchmark among the task folders, where it can be run.

    Its pictures are made on first use.
    """
    from lmms_digits import tasks_folder

    if _missing():
        return settings
    folder = tasks_folder()
    if folder in settings.task_folders:
        return settings
    return settings.model_copy(update={"task_folders": (*settings.task_folders, folder)})


def train_models(folder: Path) -> dict[str, Path]:
    """Train the three readers on their 1,200 pictures; return the artifact folder of each by the model's name."""
    from lmms_digits.train import train

    return {f"digits-{kind.replace('_', '-')}": path for kind, path in train(folder).items()}


def register_models(client: MlflowClient, trained: Mapping[str, Path]) -> dict[str, bool]:
    """Make sure that each model is a version in the registry; return its URI, and whether it is new."""
    uris: dict[str, bool] = {}
    for name, files in trained.items():
        version = _registered(client, name, describe_files(files).sha256)
        new = version is None
        if version is None:
            description = ModelDescription(
                adapter=ADAPTER, files=files, artifact_argument="path", modalities=("image", "text"), gpus=0
            )
            version = str(register_model(client, name, description).version)
        uris[f"models:/{name}/{version}"] = new
    return uris


def _registered(client: MlflowClient, name: str, content: str | None) -> str | None:
    """The newest version of this model with exactly these files."""
    versions = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.tags.get(ModelTag.CONTENT) == content and version.tags.get(ModelTag.ADAPTER) == ADAPTER
    ]
    return max((str(version.version) for version in versions), key=int, default=None)


def submit_all(client: Client, uris: Mapping[str, bool], limit: int | None = None) -> list[str]:
    """Ask for an evaluation of each model on the benchmark, or on `limit` documents a task; return the run ids."""
    return [str(client.submit(model=uri, tasks=[SUITE], limit=limit)["run_id"]) for uri in uris]
