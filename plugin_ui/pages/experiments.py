"""The experiments that a caller may choose from: id and name, for filters and forms."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlflow import MlflowClient

_MOST = 1000


@dataclass(frozen=True)
class ExperimentChoice:
    """One experiment of a list."""

    id: str
    name: str


def experiment_choices(client: MlflowClient, readable: Collection[str] | None) -> list[ExperimentChoice]:
    """The active experiments, by name; `readable` None means all."""
    found = client.search_experiments(max_results=_MOST, order_by=["name ASC"])
    return [
        ExperimentChoice(experiment.experiment_id, experiment.name)
        for experiment in found
        if readable is None or experiment.experiment_id in readable
    ]
