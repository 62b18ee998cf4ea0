"""The page *Evaluations*: queue and history in one list."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from flask import request, url_for

from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.states import State
from plugin_ui.narrowing import narrowed, parse_state
from plugin_ui.pages.experiments import ExperimentChoice, experiment_choices
from plugin_ui.pages.frame import render
from plugin_ui.pages.origin import origin_words
from plugin_ui.pages.trouble import QueueView, Trouble, look_at_queue
from plugin_ui.permissions import READ, readable_experiments, requires
from plugin_ui.services import services

_PAGE = 50


@dataclass(frozen=True)
class Filters:
    """What the list is narrowed to; empty text means all."""

    state: str
    model: str
    experiment: str

    @property
    def any(self) -> bool:
        """Whether anything is narrowed."""
        return bool(self.state or self.model or self.experiment)


@dataclass(frozen=True)
class Line:
    """One evaluation of the list."""

    run_id: str
    url: str
    name: str
    custom_name: bool
    model: str
    suite: str
    origin: str
    state: str
    cancelling: bool
    place: int | None
    reason: str | None
    priority: str
    tasks: int
    finished: int
    failed: int
    created_by: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True)
class EvaluationsContext:
    """What ``lmms/evaluations.html`` takes."""

    template: ClassVar[str] = "lmms/evaluations.html"

    lines: list[Line]
    filters: Filters
    states: list[str]
    models: list[str]
    experiments: list[ExperimentChoice]
    trouble: Trouble | None
    older_url: str | None
    feed_url: str


@requires(READ)
def show() -> str:
    """The list, newest first, narrowed by ``?state= &model= &experiment=``."""
    core = services()
    filters = Filters(*(request.args.get(name, "") for name in ("state", "model", "experiment")))
    readable = readable_experiments()
    found = core.evaluations(
        experiment_ids=narrowed(readable, filters.experiment),
        states=None if not filters.state else {parse_state(filters.state)},
        model=filters.model or None,
        before=request.args.get("before", type=float),
        limit=_PAGE + 1,
    )
    queue = look_at_queue(core)
    context = EvaluationsContext(
        lines=[_line(evaluation, queue) for evaluation in found[:_PAGE]],
        filters=filters,
        states=[str(state) for state in State],
        models=sorted({evaluation.model for evaluation in found}),
        experiments=experiment_choices(core.client, readable),
        trouble=queue.trouble,
        older_url=_older(found, filters) if len(found) > _PAGE else None,
        feed_url=feed_url(),
    )
    return render(context)


def feed_url() -> str:
    """Address of the feed of all runs, from now on (an entry's id begins with its time in milliseconds)."""
    return f"{request.script_root}/lmms/events/feed?after={int(time.time() * 1000)}-0"


def _line(evaluation: Evaluation, queue: QueueView) -> Line:
    waits = evaluation.state is State.QUEUED
    wait = queue.waits.get(evaluation.run_id) if waits else None
    states = [task.state for task in evaluation.tasks]
    return Line(
        run_id=evaluation.run_id,
        url=url_for("lmms.evaluation", run_id=evaluation.run_id),
        name=evaluation.name,
        custom_name=evaluation.request.run_name is not None,
        model=evaluation.model,
        suite=evaluation.suite,
        origin=origin_words(evaluation),
        state=evaluation.state,
        cancelling=evaluation.cancel_requested,
        place=queue.places.get(evaluation.run_id) if waits else None,
        reason=wait.reason if wait is not None else None,
        priority=evaluation.priority,
        tasks=len(states),
        finished=states.count(State.FINISHED),
        failed=states.count(State.FAILED),
        created_by=evaluation.created_by,
        created_at=evaluation.created_at,
        started_at=evaluation.started_at,
        ended_at=evaluation.ended_at,
    )


def _older(found: list[Evaluation], filters: Filters) -> str:
    chosen = {name: text for name, text in vars(filters).items() if text}
    return url_for("lmms.evaluations", **chosen, before=repr(found[_PAGE - 1].created_at))
