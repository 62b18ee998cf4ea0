"""What a request comes to: its leaf tasks, each with its settings, and the groups that they belong to. Pure.

A stored suite brings tasks and settings; what the request itself says of a task wins over its suite.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.suite import Suite, SuiteRevision, settings_by_task


@dataclass(frozen=True)
class TaskPlan:
    """The request with everything filled in that its suite says, its tasks and the groups among them."""

    request: EvaluationRequest
    tasks: tuple[str, ...]
    groups: tuple[dict[str, Any], ...]


def plan_tasks(request: EvaluationRequest, suite: SuiteRevision | None, catalogue: Catalogue) -> TaskPlan:
    """Fill the request in.

    Args:
        suite: the stored suite that the request names, if it names one.

    Raises:
        InvalidRequestError: an unknown task or metric, or a setting for a task that is not run.
    """
    if suite is not None:
        names = [entry.task for entry in suite.suite.tasks]
        request = _with_suite(request, suite, catalogue)
    else:
        names = list(request.tasks or (str(request.suite),))
    tasks = catalogue.expand(names)
    for field, chosen in (("primary", request.primary), ("dimensions", request.dimensions)):
        if strange := sorted(chosen.keys() - set(tasks)):
            raise InvalidRequestError(f"{field}: {', '.join(strange[:5])} is none of the tasks that are run")
    check_metrics(request.primary, catalogue)
    return TaskPlan(request, tuple(tasks), tuple(group.document() for group in catalogue.group_definitions(names)))


def _with_suite(request: EvaluationRequest, found: SuiteRevision, catalogue: Catalogue) -> EvaluationRequest:
    settings = settings_by_task(found.suite, leaves(found.suite, catalogue))
    primary = {task: entry.primary for task, entry in settings.items() if entry.primary}
    dimensions = {task: entry.dimensions for task, entry in settings.items() if entry.dimensions}
    return request.model_copy(
        update={
            "suite_revision": found.revision,
            "primary": primary | request.primary,
            "dimensions": dimensions | request.dimensions,
            "errored": request.errored or found.suite.errored,
        }
    )


def check_suite(suite: Suite, catalogue: Catalogue) -> None:
    """Go on only when the suite can be run as it stands.

    Raises:
        InvalidRequestError: an unknown task or metric, a task by two ways, a name that lmms-eval has given already.
    """
    if taken := next((kind for kind, names in _kinds(catalogue) if suite.name in names), None):
        raise InvalidRequestError(f"{suite.name!r} is a {taken} of lmms-eval: give the suite another name")
    settings = settings_by_task(suite, leaves(suite, catalogue))
    check_metrics({task: entry.primary for task, entry in settings.items() if entry.primary}, catalogue)


def _kinds(catalogue: Catalogue) -> Iterable[tuple[str, Iterable[str]]]:
    return (("group", catalogue.groups), ("tag", catalogue.tags), ("task", catalogue.tasks))


def leaves(suite: Suite, catalogue: Catalogue) -> dict[str, list[str]]:
    """The tasks behind each entry of the suite.

    Raises:
        InvalidRequestError: a name that lmms-eval does not have.
    """
    return {entry.task: catalogue.expand([entry.task]) for entry in suite.tasks}


def check_metrics(primary: dict[str, str], catalogue: Catalogue) -> None:
    """Go on only when each task has the metric chosen for it, as far as the catalogue tells its metrics.

    Raises:
        InvalidRequestError: it has not; the message lists those it has.
    """
    for task, choice in primary.items():
        known = [metric.name for metric in catalogue.tasks[task].metrics] if task in catalogue.tasks else []
        metric = choice if choice in known else choice.rpartition(":")[0] or choice
        if known and metric not in known:
            near = difflib.get_close_matches(metric, known, n=5, cutoff=0.0)
            raise InvalidRequestError(f"{task} has no metric {metric!r}; it has {', '.join(near)}")
