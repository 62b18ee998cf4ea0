"""An evaluation as rows of our tables, and back. Pure; `mlflow_lmms.evaluation_store` reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.sql.schema import EvaluationRow, PartRow, TaskRow
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import ResolvedModel


def rows_of(evaluation: Evaluation) -> list[EvaluationRow | PartRow | TaskRow]:
    """The rows of a new evaluation, its own first."""
    return [
        EvaluationRow(
            run_id=evaluation.run_id,
            experiment_id=evaluation.experiment_id,
            name=evaluation.name,
            model=evaluation.model,
            suite=evaluation.suite,
            request=evaluation.request.model_dump_json(),
            resolved=evaluation.resolved.model_dump_json(),
            state=evaluation.state,
            priority=evaluation.priority,
            created_by=evaluation.created_by,
            created_at=evaluation.created_at,
            group_definitions=json.dumps(evaluation.groups),
        ),
        *(
            PartRow(run_id=evaluation.run_id, part=part.part, gpus=part.gpus, queued_at=part.queued_at)
            for part in evaluation.parts
        ),
        *(
            TaskRow(
                run_id=evaluation.run_id,
                task=task.task,
                part=task.part,
                position=position,
                state=task.state,
                attempt=task.attempt,
            )
            for position, task in enumerate(evaluation.tasks)
        ),
    ]


def evaluation_of(row: EvaluationRow, parts: Iterable[PartRow], tasks: Iterable[TaskRow]) -> Evaluation:
    """The evaluation of a row, with those of the parts and tasks that are its own."""
    return Evaluation(
        run_id=row.run_id,
        experiment_id=row.experiment_id,
        name=row.name,
        model=row.model,
        suite=row.suite,
        request=EvaluationRequest.model_validate_json(row.request),
        resolved=ResolvedModel.model_validate_json(row.resolved),
        state=State(row.state),
        priority=row.priority,
        created_by=row.created_by,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        cancel_requested=row.cancel_requested,
        tasks=tuple(_task(task) for task in tasks if task.run_id == row.run_id),
        parts=tuple(_part(part) for part in parts if part.run_id == row.run_id),
        groups=tuple(json.loads(row.group_definitions)),
    )


def _task(row: TaskRow) -> TaskStatus:
    return TaskStatus(
        task=row.task,
        part=row.part,
        state=State(row.state),
        attempt=row.attempt,
        automatic_retries=row.automatic_retries,
        failure=FailureClass(row.failure) if row.failure else None,
        message=row.message,
        log_tail=row.log_tail,
        started_at=row.started_at,
        ended_at=row.ended_at,
        samples=row.samples,
        metric=row.metric,
        score=row.score,
        retries=json.loads(row.retries),
    )


def _part(row: PartRow) -> PartStatus:
    return PartStatus(
        part=row.part,
        gpus=row.gpus,
        token=row.token,
        box=row.box,
        slot=row.slot,
        devices=tuple(json.loads(row.devices)),
        claimed_at=row.claimed_at,
        seen_at=row.seen_at,
        rescore=row.rescore,
        out_of_memory=row.out_of_memory,
        queued_at=row.queued_at,
    )
