"""The page of one evaluation: progress, live log, results, slices, files, the command that does the same."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from flask import redirect, request, url_for
from mlflow.entities import Run
from werkzeug.wrappers import Response

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.evaluation import Evaluation, TaskStatus
from mlflow_lmms.evaluation_json import command_line
from mlflow_lmms.names import Artifact
from mlflow_lmms.part_attempts import PartAttempt, attempts_of
from mlflow_lmms.reading.result_warnings import WarningName
from mlflow_lmms.score import REPORTED
from mlflow_lmms.services import Services
from mlflow_lmms.states import FINAL, State
from mlflow_lmms.task_result import TaskResult
from plugin_ui.pages.evaluation_results import Result, SliceChart, slice_charts, task_metrics
from plugin_ui.pages.frame import mlflow_url, render
from plugin_ui.pages.origin import PublishedSource, origin_words, published_source
from plugin_ui.pages.result_findings import (
    ErroredLine,
    FindingGroup,
    GroupLine,
    StabilityLine,
    errored_lines,
    finding_groups,
    findings,
    group_lines,
    stability_lines,
)
from plugin_ui.pages.trouble import QueueView, Trouble, look_at_queue, waiting_trouble
from plugin_ui.permissions import EDIT, READ, allowed, caller, requires
from plugin_ui.services import services
from plugin_ui.stored_files import StoredFile, stored_files


@dataclass(frozen=True)
class TaskLine:
    """One task: its status, and its result's main metric where it has one."""

    status: TaskStatus
    score: Result | None
    samples_url: str | None
    source_url: str | None


@dataclass(frozen=True)
class EvaluationContext:
    """What ``lmms/evaluation.html`` takes."""

    template: ClassVar[str] = "lmms/evaluation.html"

    evaluation: Evaluation
    lines: list[TaskLine]
    results: list[Result]
    charts: list[SliceChart]
    findings: list[FindingGroup]
    errored: list[ErroredLine]
    stability: list[StabilityLine]
    groups: list[GroupLine]
    files: list[StoredFile]
    warnings: list[str]
    origin: str
    published: PublishedSource | None
    has_log: bool
    trouble: Trouble | None
    place: int | None
    wait: str | None
    attempts: list[PartAttempt]
    gpu_hours: float | None
    workers: list[str]
    experiment: str
    experiment_url: str
    run_url: str
    command: str | None
    can_cancel: bool
    can_retry: bool
    can_rescore: bool
    live: bool
    now: float
    events_url: str
    log_url: str


@requires(READ, run="run_id")
def show(run_id: str) -> str:
    """The evaluation as it stands; scripts keep the page up to date."""
    core = services()
    evaluation = core.evaluation(run_id)
    run = core.client.get_run(run_id)
    published = _published(run, evaluation)
    found = {} if published is not None else _task_results(core, evaluation)
    samples_url = partial(url_for, "lmms.samples", run_id=run_id)
    metrics = {task: task_metrics(result, run.data.metrics) for task, result in found.items()}
    queue = look_at_queue(core)
    may_edit = allowed(EDIT, evaluation.experiment_id, caller().username)
    experiment = core.client.get_experiment(evaluation.experiment_id)
    experiment_route = f"/experiments/{evaluation.experiment_id}"
    files = stored_files(run_id)
    attempts = attempts_of(core.store.engine, run_id)
    context = EvaluationContext(
        evaluation=evaluation,
        lines=[
            _line(evaluation, task, metrics.get(task.task), found.get(task.task), published)
            for task in evaluation.tasks
        ],
        results=[row for rows in metrics.values() for row in rows],
        charts=slice_charts(found.values()),
        findings=finding_groups(findings(found.values(), samples_url, offset=evaluation.request.offset)),
        errored=errored_lines(found.values(), samples_url),
        stability=stability_lines(found.values()),
        groups=group_lines(core.reader.group_scores(run_id)) if found else [],
        files=files,
        warnings=_warnings(evaluation, found),
        origin=origin_words(evaluation),
        published=published,
        has_log=evaluation.queued_here or any(file.path == Artifact.LOG for file in files),
        trouble=waiting_trouble(queue, evaluation),
        place=queue.places.get(run_id) if evaluation.state is State.QUEUED else None,
        wait=_wait(queue, evaluation),
        attempts=attempts,
        gpu_hours=sum(attempt.gpu_hours or 0.0 for attempt in attempts) if attempts else None,
        workers=sorted({f"{part.box} / {part.slot}" for part in evaluation.parts if part.box}),
        experiment=experiment.name,
        experiment_url=mlflow_url(experiment_route),
        run_url=mlflow_url(f"{experiment_route}/runs/{run_id}"),
        command=command_line(evaluation) if evaluation.queued_here else None,
        can_cancel=may_edit and evaluation.state not in FINAL and not evaluation.cancel_requested,
        can_retry=may_edit and evaluation.queued_here and evaluation.state in (State.FAILED, State.CANCELLED),
        can_rescore=may_edit and _rescorable(evaluation),
        live=evaluation.state not in FINAL,
        now=time.time(),
        events_url=f"{request.script_root}/lmms/events/runs/{run_id}",
        log_url=url_for("lmms_api.read_log", run_id=run_id),
    )
    return render(context)


@requires(EDIT, run="run_id")
def cancel(run_id: str) -> Response:
    """Stop the evaluation and go back to its page."""
    services().lifecycle.cancel(run_id)
    return redirect(url_for("lmms.evaluation", run_id=run_id), 303)


@requires(EDIT, run="run_id")
def retry(run_id: str) -> Response:
    """Queue what failed or was cancelled again and go back to the evaluation's page."""
    services().lifecycle.retry(run_id)
    return redirect(url_for("lmms.evaluation", run_id=run_id), 303)


@requires(EDIT, run="run_id")
def rescore(run_id: str) -> Response:
    """Score every finished task again from its stored answers and go back to the evaluation's page."""
    services().lifecycle.rescore(run_id, None)
    return redirect(url_for("lmms.evaluation", run_id=run_id), 303)


def _rescorable(evaluation: Evaluation) -> bool:
    """Whether there are answers to score again, and nobody works on the run."""
    done = any(task.state is State.FINISHED for task in evaluation.tasks)
    return evaluation.queued_here and evaluation.state in FINAL and done


def _wait(queue: QueueView, evaluation: Evaluation) -> str | None:
    wait = queue.waits.get(evaluation.run_id)
    return wait.reason if wait is not None and evaluation.state is State.QUEUED else None


def _task_results(core: Services, evaluation: Evaluation) -> dict[str, TaskResult]:
    found: dict[str, TaskResult] = {}
    for task in evaluation.tasks:
        if task.state is State.FINISHED:
            try:
                found[task.task] = core.reader.task_result(evaluation.run_id, task.task)
            except LmmsError:
                continue  # its files were removed: the row in the table still tells the score
    return found


def _line(
    evaluation: Evaluation,
    task: TaskStatus,
    results: list[Result] | None,
    found: TaskResult | None,
    published: PublishedSource | None,
) -> TaskLine:
    score = next((row for row in results or () if row.primary), None)
    url = url_for("lmms.samples", run_id=evaluation.run_id, task=task.task)
    return TaskLine(
        status=task,
        score=score,
        samples_url=url if found is not None and found.samples else None,
        source_url=published.urls.get(task.task) if published is not None else None,
    )


def _published(run: Run, evaluation: Evaluation) -> PublishedSource | None:
    if evaluation.source != REPORTED:
        return None
    return published_source(run.data.tags, (task.task for task in evaluation.tasks))


def _warnings(evaluation: Evaluation, found: Mapping[str, TaskResult]) -> list[str]:
    """What holds for the run as a whole; a finished task says for itself that it is partial."""
    told = any(warning.name == WarningName.PARTIAL_RUN for result in found.values() for warning in result.warnings)
    if evaluation.request.partial and not told:
        return ["Only a part of each task's documents is run: its scores are no scores of the benchmark."]
    return []
