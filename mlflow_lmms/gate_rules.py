"""What a gate asks of each task: weight, margins, groups; from the suite, and from the request, which wins. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.request import DimensionName, TaskName
from mlflow_lmms.suite import Suite, SuiteTask, settings_by_task

Margin = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Named = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class GateRequest(BaseModel):
    """What is to be judged, and by which margins.

    Attributes:
        candidate, baseline: a run's id, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        suite: a stored suite, ``NAME`` or ``NAME@REVISION``; without one it is every task of the baseline.
        margin, suite_margin, slice_margin: acceptable loss of a task, of the weighted mean, of a group, as a share of
            the metric's scale: 0.01 is one point of a hundred.
        margins: acceptable loss by task, in the metric's own units.
        dimensions: which groups are looked at; none named: those that the suite names for the task, else all.
        lenient_slices: a group with too few documents to say does not keep the candidate from passing.
        partial, flagged: let results over a part of the documents, or with a warning against them, pass too.
        record: write the verdict onto the candidate's model version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: Named
    baseline: Named
    suite: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    experiment: Named | None = None
    margin: Share | None = None
    margins: Mapping[TaskName, Margin] = {}
    suite_margin: Share | None = None
    slice_margin: Share | None = None
    dimensions: Annotated[tuple[DimensionName, ...], Field(max_length=50)] = ()
    lenient_slices: bool = False
    partial: bool = False
    flagged: bool = False
    record: bool = True


@dataclass(frozen=True)
class Loss:
    """An acceptable loss: in the metric's own units, or as a share of its scale."""

    value: float
    of_scale: bool = False

    def in_units(self, scale_high: float | None) -> float | None:
        """In the metric's own units; None where that takes a scale that is not known."""
        if not self.of_scale:
            return self.value
        return None if scale_high is None else self.value * scale_high


@dataclass(frozen=True)
class TaskRule:
    """What is asked of one task; `slices` None: its groups are not looked at."""

    task: str
    margin: Loss
    weight: float = 1.0
    primary: str | None = None
    slices: Loss | None = None
    dimensions: tuple[str, ...] = ()


def task_rules(
    asked: GateRequest, suite: Suite | None, leaves: Mapping[str, Iterable[str]], tasks: Sequence[str]
) -> list[TaskRule]:
    """The rule of each task.

    Args:
        leaves: the tasks behind each entry of the suite.
        tasks: what is judged where there is no suite.

    Raises:
        InvalidRequestError: a task without a margin, or a margin for a task that is not judged.
    """
    entries = settings_by_task(suite, leaves) if suite else {task: SuiteTask(task=task) for task in tasks}
    if strange := sorted(asked.margins.keys() - entries.keys()):
        raise InvalidRequestError(f"margins: {', '.join(strange[:5])} is none of the tasks that are judged")
    without = [task for task, entry in entries.items() if _margin(asked, task, entry) is None]
    if without:
        raise InvalidRequestError(
            f"no margin is known for {', '.join(without[:5])}{' and others' if len(without) > 5 else ''}: say which "
            "loss is acceptable, with --margin 0.01 (of the scale), --margin TASK=VALUE, or a margin in the suite"
        )
    return [
        TaskRule(
            task,
            margin,
            entry.weight,
            entry.primary,
            _slice_margin(asked, entry),
            asked.dimensions or entry.dimensions,
        )
        for task, entry in entries.items()
        if (margin := _margin(asked, task, entry)) is not None
    ]


def _margin(asked: GateRequest, task: str, entry: SuiteTask) -> Loss | None:
    if task in asked.margins:
        return Loss(asked.margins[task])
    if asked.margin is not None:
        return Loss(asked.margin, of_scale=True)
    return None if entry.margin is None else Loss(entry.margin)


def _slice_margin(asked: GateRequest, entry: SuiteTask) -> Loss | None:
    if asked.slice_margin is not None:
        return Loss(asked.slice_margin, of_scale=True)
    return None if entry.slice_margin is None else Loss(entry.slice_margin)
