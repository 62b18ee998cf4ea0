"""What the Model Registry says of the models on a board: their aliases and sizes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.registry import ModelTag

_LABEL = re.compile(r"(?P<name>.+) v(?P<version>[0-9]{1,18})")
_KEPT_S = 5.0
_PAGE = 1_000


def name_and_version(label: str) -> tuple[str, int | None]:
    """The registered name and version behind a model's label on boards; no version where the label has none."""
    match = _LABEL.fullmatch(label)
    return (match["name"], int(match["version"])) if match else (label, None)


@dataclass(frozen=True)
class ModelFacts:
    """`aliases`: by alias, the versions as (name, version). `parameters`: by (name, version), where it is known."""

    aliases: Mapping[str, frozenset[tuple[str, int]]] = field(default_factory=dict)
    parameters: Mapping[tuple[str, int], int] = field(default_factory=dict)


class RegistryFacts:
    """Reads the registry; what it says is believed for a few seconds."""

    def __init__(self, client: MlflowClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._now = clock
        self._kept: tuple[float, ModelFacts] | None = None
        self._lock = Lock()

    def __call__(self) -> ModelFacts:
        """All models of the registry.

        Raises:
            UnavailableError: the registry does not answer.
        """
        with self._lock:
            if self._kept is None or self._now() - self._kept[0] > _KEPT_S:
                self._kept = self._now(), self._read()
            return self._kept[1]

    def _read(self) -> ModelFacts:
        aliases: dict[str, set[tuple[str, int]]] = {}
        try:
            for model in self._models():
                for alias, version in model.aliases.items():
                    aliases.setdefault(alias, set()).add((model.name, int(version)))
            versions = {(found.name, int(found.version)): found.tags for found in self._versions()}
        except MlflowException as error:
            raise UnavailableError(f"the model registry cannot be read: {error.message}") from None
        told = {version: str(tags.get(ModelTag.PARAMETERS, "")) for version, tags in versions.items()}
        return ModelFacts(
            {alias: frozenset(versions) for alias, versions in aliases.items()},
            {version: int(text) for version, text in told.items() if text.isascii() and text.isdecimal()},
        )

    def _models(self) -> Iterator[RegisteredModel]:
        token: str | None = None
        while token != "":
            page: PagedList[RegisteredModel] = self._client.search_registered_models(
                max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token or ""

    def _versions(self) -> Iterator[ModelVersion]:
        token: str | None = None
        while token != "":
            page: PagedList[ModelVersion] = self._client.search_model_versions(max_results=_PAGE, page_token=token)
            yield from page
            token = page.token or ""
