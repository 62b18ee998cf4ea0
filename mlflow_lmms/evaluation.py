"""An evaluation as it stands: the request, its parts and its tasks. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.states import ACTIVE, FailureClass, State
from mlflow_lmms.work_order import ResolvedModel


@dataclass(frozen=True)
class TaskStatus:
    """One task of an evaluation; times in unix seconds.

    `retries` counts the automatic retries by what they were charged to (`retry_budget.Budget`).
    """

    task: str
    part: str
    state: State
    attempt: int
    automatic_retries: int
    failure: FailureClass | None
    message: str | None
    log_tail: str | None
    started_at: float | None
    ended_at: float | None
    samples: int | None
    metric: str | None
    score: float | None
    retries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartStatus:
    """One part of an evaluation and who works on it; `token` is 0 before the first claim.

    `rescore`: its tasks have results, and their answers are scored again. `out_of_memory`: how many attempts of it
    ran out of memory. `queued_at`: when it last began to wait; None: when the evaluation was made.
    """

    part: str
    gpus: int
    token: int
    box: str | None
    slot: str | None
    devices: tuple[str, ...]
    claimed_at: float | None
    seen_at: float | None
    rescore: bool = False
    out_of_memory: int = 0
    queued_at: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation with its tasks in order; times in unix seconds.

    `source` says where its results come from: the queue, or what else wrote the MLflow run (an import, a client, a
    published table). `groups` are the definitions of lmms-eval's groups that were asked for.
    """

    run_id: str
    experiment_id: str
    name: str
    model: str
    suite: str
    request: EvaluationRequest
    resolved: ResolvedModel
    state: State
    priority: str
    created_by: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    cancel_requested: bool
    tasks: tuple[TaskStatus, ...]
    parts: tuple[PartStatus, ...]
    source: str = "queue"
    groups: tuple[dict[str, Any], ...] = ()

    @property
    def queued_here(self) -> bool:
        """Whether it was ours to run, so that it can be cancelled or retried."""
        return bool(self.parts)

    def part(self, part: str) -> PartStatus:
        """The part of this name.

        Raises:
            NotFoundError: the run has no such part.
        """
        for candidate in self.parts:
            if candidate.part == part:
                return candidate
        raise NotFoundError(f"run {self.run_id} has no part {part!r}; it has {', '.join(p.part for p in self.parts)}")

    def task(self, name: str) -> TaskStatus:
        """The task of this name.

        Raises:
            NotFoundError: the run has no such task.
        """
        for candidate in self.tasks:
            if candidate.task == name:
                return candidate
        raise NotFoundError(f"run {self.run_id} has no task {name!r}; it has {', '.join(t.task for t in self.tasks)}")

    def tasks_of(self, part: str) -> tuple[TaskStatus, ...]:
        """The tasks of one part, in order."""
        return tuple(task for task in self.tasks if task.part == part)

    def active_tasks(self, part: str) -> list[str]:
        """Names of the part's tasks that a worker is busy with."""
        return [task.task for task in self.tasks_of(part) if task.state in ACTIVE]
