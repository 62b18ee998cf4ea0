"""Tasks and groups of the catalogue as JSON values."""

from __future__ import annotations

from typing import Any

from mlflow_lmms.catalogue.index import Catalogue
from mlflow_lmms.catalogue.task import CatalogueTask
from mlflow_lmms.errors import InvalidRequestError


def task_row(task: CatalogueTask) -> dict[str, Any]:
    """One task in a list: values without their evidence."""
    return {
        "name": task.name,
        "own": task.own,
        **{name: derived.value for name, derived in task.derived().items()},
        "dataset": task.dataset,
        "output_type": task.output_type,
        "metrics": [metric.name for metric in task.metrics],
        "tags": list(task.tags),
        "trouble": list(task.trouble),
    }


def whole_task(catalogue: Catalogue, task: CatalogueTask) -> dict[str, Any]:
    """Everything that is known of a task; each derived field with its evidence and confidence."""
    return {
        "name": task.name,
        "kind": "task",
        "own": task.own,
        "path": str(task.path),
        **{name: derived._asdict() for name, derived in task.derived().items()},
        "dataset": task.dataset,
        "dataset_name": task.dataset_name,
        "split": task.split,
        "output_type": task.output_type,
        "num_fewshot": task.num_fewshot,
        "repeats": task.repeats,
        "filters": list(task.filters),
        "metrics": [metric._asdict() for metric in task.metrics],
        "tags": list(task.tags),
        "member_of": catalogue.memberships(task.name),
        "trouble": list(task.trouble),
    }


def whole_group(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """A group or tag: its tasks, how its score is made, what is wrong with it."""
    group = catalogue.group_files.get(name)
    try:
        tasks, problem = catalogue.expand([name]), None
        definitions = catalogue.group_definitions([name])
    except InvalidRequestError as error:
        tasks, problem, definitions = [], error.message, ()
    return {
        "name": name,
        "kind": "tag" if group is None else "group",
        "own": group.own if group is not None else all(catalogue.tasks[task].own for task in tasks),
        "path": None if group is None else str(group.path),
        "members": list(catalogue.groups.get(name, catalogue.tags.get(name, ()))),
        "tasks": tasks,
        "groups": [
            {
                "name": definition.name,
                "members": list(definition.members),
                "aggregates": [aggregate._asdict() for aggregate in definition.aggregates],
            }
            for definition in definitions
        ],
        "problem": problem,
    }
