"""Which folders of outputs belong to which version in the Model Registry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.importing.discovery import FoundResults
from mlflow_lmms.importing.run_facts import ImportedModel
from mlflow_lmms.registry import ModelTag, find_version

_SIZE_LIMIT = 1_000_000


def read_map_file(path: Path) -> dict[str, str]:
    """Read a YAML or JSON mapping of folders to ``models:/NAME/VERSION``.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= _SIZE_LIMIT else "too large"
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidRequestError(f"{path} cannot be read as a mapping: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(part, str) for item in content.items() for part in item):
        raise InvalidRequestError(f"{path}: expected FOLDER: models:/NAME/VERSION, one a line")
    return content


def parse_map(entries: Sequence[str]) -> dict[str, str]:
    """Take ``FOLDER=models:/NAME/VERSION`` apart; an entry without ``=`` is a file with such a mapping.

    Raises:
        InvalidRequestError: an entry is neither.
    """
    mapping: dict[str, str] = {}
    for entry in entries:
        folder, equals, uri = entry.rpartition("=models:/")
        if equals:
            mapping[folder] = f"models:/{uri}"
        elif Path(entry).is_file():
            mapping |= read_map_file(Path(entry))
        else:
            raise InvalidRequestError(
                f"--map takes FOLDER=models:/NAME/VERSION, or a YAML file of such lines; got {entry!r}"
            )
    return mapping


class ModelMap:
    """The versions behind a mapping; each is looked up once, before anything is imported."""

    def __init__(self, client: MlflowClient, mapping: Mapping[str, str]) -> None:
        self._versions = {folder.rstrip("/"): find_version(client, uri) for folder, uri in mapping.items()}

    def link(self, model: ImportedModel, folders: Sequence[str], folder: Path) -> ImportedModel:
        """The model as the version that its folder belongs to, the innermost folder first; else as it is."""
        name = next((name for name in _names(folders, folder) if name in self._versions), None)
        return model if name is None else linked(model, self._versions[name])

    def unused(self, found: Iterable[FoundResults]) -> list[str]:
        """The folders of the mapping in which there is none of the results."""
        there = {name for one in found for name in _names(one.folders, one.results.parent)}
        return [name for name in self._versions if name not in there]


def _names(folders: Sequence[str], folder: Path) -> Iterator[str]:
    """What a mapping may call the folder of a results file or one around it, the innermost first."""
    for depth in range(len(folders), 0, -1):
        yield from (folders[depth - 1], "/".join(folders[:depth]), "/".join(folders[1:depth]))
    yield str(folder)


def linked(model: ImportedModel, version: ModelVersion) -> ImportedModel:
    """The model with the name of a version in the registry."""
    logged = version.tags.get(ModelTag.LOGGED_MODEL) or version.model_id
    return replace(
        model,
        label=f"{version.name} v{version.version}",
        name=version.name,
        version=str(version.version),
        logged_model_id=logged or None,
    )
