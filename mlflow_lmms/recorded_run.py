"""What an MLflow run tells of an evaluation by its tags, params and metrics alone, whoever wrote it. Pure.

So a run that was imported, logged by a client or reported by somebody else stands beside those of our queue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from mlflow.entities import Run

from mlflow_lmms.evaluation import Evaluation, TaskStatus
from mlflow_lmms.names import MetricName, Tag, unescape, was_cut
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.states import State
from mlflow_lmms.work_order import ResolvedModel

#: What a run without `lmms.source` is taken for: somebody's own program logged it.
CLIENT = "client"
_TASK_TAG = "lmms.task."
_OF_RESULTS = (".fingerprint", ".primary")
#: The same names come in run after run.
_metric_name = lru_cache(maxsize=50_000)(MetricName.parse)


def tag_object(tags: Mapping[str, str], key: str) -> dict[str, Any]:
    """A tag's JSON object; empty where it is none, because users may edit tags in MLflow's page."""
    try:
        content = json.loads(tags.get(key) or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def recorded_tasks(tags: Mapping[str, str]) -> list[str]:
    """The tasks that have results in the run, in the order in which they were asked for."""
    asked = [task for task in tags.get(Tag.TASKS, "").split(",") if _has_result(tags, task)]
    return list(dict.fromkeys([*asked, *sorted(_told(tags))]))


def has_results(tags: Mapping[str, str]) -> bool:
    """Whether the run is an evaluation at all."""
    return Tag.STATE in tags or Tag.SOURCE in tags or bool(recorded_tasks(tags))


def model_label(run: Run) -> str:
    """The model as boards show it; a run that names none goes by its own name."""
    tags = run.data.tags
    name = tags.get(Tag.MODEL) or run.info.run_name or run.info.run_id
    version = tags.get(Tag.MODEL_VERSION)
    return f"{name} v{version}" if version else str(name)


def suite_of(run: Run) -> str:
    """The suite that the run belongs to; where none is named, its tasks in short."""
    tasks = recorded_tasks(run.data.tags)
    named = run.data.tags.get(Tag.SUITE)
    return named or (tasks[0] if len(tasks) == 1 else f"{tasks[0]} +{len(tasks) - 1}" if tasks else "")


def is_partial(run: Run, task: str) -> bool:
    """Whether the task's result is over a part of its documents."""
    told = tag_object(run.data.tags, Tag.primary(task)).get("partial")
    if isinstance(told, bool):
        return told
    return run.data.params.get("limit") is not None or run.data.params.get("offset", "0") != "0"


def metric_values(run: Run) -> dict[MetricName, float]:
    """Our metrics of the run by their whole names; those of others are left out."""
    tags = run.data.tags
    found: dict[MetricName, float] = {}
    for key, value in run.data.metrics.items():
        name = _metric_name(tags.get(Tag.whole_name(key), "") if was_cut(key) else key)
        if name is not None:
            found[name] = value
    return found


def recorded_evaluation(run: Run) -> Evaluation:
    """The evaluation that the run tells of, for a run that no queue of ours knows."""
    tags, info = run.data.tags, run.info
    label = model_label(run)
    values = metric_values(run)
    tasks = tuple(_task(run, task, values) for task in recorded_tasks(tags))
    created, ended = _seconds(info.start_time), _seconds(info.end_time)
    return Evaluation(
        run_id=info.run_id,
        experiment_id=str(info.experiment_id),
        name=info.run_name or label,
        model=label,
        suite=suite_of(run),
        request=_request(run, tasks),
        resolved=_model(run, label),
        state=State.FINISHED,
        priority="normal",
        created_by=tags.get(Tag.CREATED_BY) or tags.get("mlflow.user"),
        created_at=created or 0.0,
        started_at=created,
        ended_at=ended,
        cancel_requested=False,
        tasks=tasks,
        parts=(),
        source=tags.get(Tag.SOURCE) or CLIENT,
    )


def _has_result(tags: Mapping[str, str], task: str) -> bool:
    return Tag.fingerprint(task) in tags or Tag.primary(task) in tags


def _told(tags: Mapping[str, str]) -> Iterator[str]:
    for key in tags:
        for ending in _OF_RESULTS:
            if key.startswith(_TASK_TAG) and key.endswith(ending) and not was_cut(key):
                with suppress(ValueError, OverflowError):  # an escape of no character: not ours
                    yield unescape(key[len(_TASK_TAG) : -len(ending)])


def _task(run: Run, task: str, values: Mapping[MetricName, float]) -> TaskStatus:
    primary = tag_object(run.data.tags, Tag.primary(task))
    metric, filter_name = primary.get("metric"), str(primary.get("filter") or "none")
    name = MetricName(task, metric, filter_name) if isinstance(metric, str) else None
    count = values.get(name.of("n")) if name else None
    return TaskStatus(
        task=task,
        part="0",
        state=State.FINISHED,
        attempt=_whole(run.data.tags.get(Tag.ATTEMPT)) or 1,
        automatic_retries=0,
        failure=None,
        message=None,
        log_tail=None,
        started_at=None,
        ended_at=None,
        samples=int(count) if count is not None else None,
        metric=metric if isinstance(metric, str) else None,
        score=values.get(name) if name else None,
    )


def _request(run: Run, tasks: tuple[TaskStatus, ...]) -> EvaluationRequest:
    """As far as the params tell; not checked, because nobody will run it."""
    params = run.data.params
    return EvaluationRequest.model_construct(
        adapter=run.data.tags.get(Tag.ADAPTER),
        tasks=tuple(task.task for task in tasks),
        limit=_whole(params.get("limit")),
        offset=_whole(params.get("offset")) or 0,
        num_fewshot=_whole(params.get("num_fewshot")),
        run_name=run.info.run_name,
        suite_revision=_whole(run.data.tags.get(Tag.SUITE_REVISION)),
    )


def _model(run: Run, label: str) -> ResolvedModel:
    tags = run.data.tags
    return ResolvedModel.model_construct(
        label=label,
        name=tags.get(Tag.MODEL) or label,
        version=tags.get(Tag.MODEL_VERSION),
        adapter=tags.get(Tag.ADAPTER) or "unknown",
        model_args={},
        gpus=0,
        logged_model_id=tags.get(Tag.LOGGED_MODEL),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 19 else None
