"""What a board's filters mean now: names that the catalogue, the registry and the suites say something about."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.catalogue.filters import CatalogueFilter
from mlflow_lmms.model_facts import ModelFacts, name_and_version
from mlflow_lmms.suite import Suite

_BILLION = 1e9

Version = tuple[str, int]


@dataclass(frozen=True)
class Narrowing:
    """A board's filters as sets of names; None leaves everything in.

    Attributes:
        tasks: whose columns may stand on the board.
        models: names of models.
        sized: the versions whose size fits; `known` those whose size is known at all.
        aliased: the versions with the alias that is asked for.
        weights: tasks with their weights, where these make the overall score.
    """

    tasks: frozenset[str] | None = None
    models: frozenset[str] | None = None
    sized: frozenset[Version] | None = None
    known: frozenset[Version] = frozenset()
    aliased: frozenset[Version] | None = None
    weights: tuple[tuple[str, float], ...] | None = None

    def takes(self, label: str) -> bool:
        """Whether the model of this label may have a row."""
        name, version = name_and_version(label)
        if self.models is not None and name not in self.models and label not in self.models:
            return False
        return all(
            versions is None or (version is not None and (name, version) in versions)
            for versions in (self.sized, self.aliased)
        )

    def of_unknown_size(self, label: str) -> bool:
        """Whether the model is left out only because nobody knows its size."""
        name, version = name_and_version(label)
        return self.sized is not None and (version is None or (name, version) not in self.known)


class Narrower:
    """Turns queries into names.

    Args:
        suite: the newest revision of a suite by its name; NotFoundError where there is none.
    """

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        facts: Callable[[], ModelFacts],
        suite: Callable[[str], Suite],
    ) -> None:
        self._catalogue = catalogue
        self._facts = facts
        self._suite = suite

    def narrow(self, query: BoardQuery) -> Narrowing:
        """What the query's filters leave.

        Raises:
            InvalidRequestError: the catalogue knows no such group.
            NotFoundError: the suite whose weights are asked for has no definition.
        """
        facts = self._facts() if query.by_size or query.versions.startswith("@") else ModelFacts()
        return Narrowing(
            tasks=self._tasks(query),
            models=frozenset(query.models) or None,
            sized=_sized(query, facts) if query.by_size else None,
            known=frozenset(facts.parameters) if query.by_size else frozenset(),
            aliased=_aliased(query.versions, facts),
            weights=self._weights(query),
        )

    def _tasks(self, query: BoardQuery) -> frozenset[str] | None:
        parts: list[Collection[str]] = []
        if query.tasks:
            parts.append(query.tasks)
        if query.groups:
            parts.append(self._catalogue().expand(query.groups))
        if query.modalities or query.categories:
            fitting = CatalogueFilter(modalities=query.modalities, categories=query.categories)
            parts.append([task.name for task in fitting.tasks(self._catalogue())])
        return frozenset.intersection(*map(frozenset, parts)) if parts else None

    def _weights(self, query: BoardQuery) -> tuple[tuple[str, float], ...] | None:
        if query.overall != "weighted" or query.suite is None:
            return None
        catalogue, found = self._catalogue(), dict[str, float]()
        for entry in self._suite(query.suite).tasks:
            leaves = catalogue.expand([entry.task]) if catalogue.kind(entry.task) is not None else [entry.task]
            for task in leaves:
                found.setdefault(task, entry.weight / len(leaves))
        return tuple(found.items())


def _sized(query: BoardQuery, facts: ModelFacts) -> frozenset[Version]:
    low = (query.min_size or 0.0) * _BILLION
    high = float("inf") if query.max_size is None else query.max_size * _BILLION
    return frozenset(version for version, parameters in facts.parameters.items() if low <= parameters <= high)


def _aliased(versions: str, facts: ModelFacts) -> frozenset[Version] | None:
    return facts.aliases.get(versions[1:], frozenset()) if versions.startswith("@") else None
