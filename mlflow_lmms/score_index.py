"""The score index: the MLflow runs' metrics as rows that boards are made of; rebuilt from the runs at will."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlflow_lmms.corrections import apply_corrections
from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.names import MetricName, Tag, cut
from mlflow_lmms.recorded_run import (
    CLIENT,
    is_partial,
    metric_values,
    model_label,
    recorded_tasks,
    suite_of,
    tag_object,
)
from mlflow_lmms.score import Score
from mlflow_lmms.sql.schema import EvaluationRow, IndexedRunRow, ScoreRow, TaskRow

_RUNS_AT_ONCE = 100
_LONGEST = 500
_SOURCE_LONGEST = 16


class ScoreIndex:
    """Writes and reads `lmms_scores`."""

    def __init__(self, store: EvaluationStore, client: MlflowClient) -> None:
        self._store = store
        self._client = client

    def refresh(self, evaluation: Evaluation, _task: str = "") -> None:
        """`refresh_run`, as the lifecycle calls it when a task has finished."""
        self.refresh_run(evaluation.run_id)

    def refresh_run(self, run_id: str) -> int:
        """Read the run's metrics and put them in place of what the index held of it; returns how many there are.

        Everything comes from the run itself, so that it does not matter who wrote it. Of a deleted run nothing stays.

        Raises:
            UnavailableError: MLflow does not hand out the run.
        """
        with self._store.session() as session, session.begin():
            # Locked before the run is read: of two tasks that end at once the later reader must write last.
            row = _locked(session, run_id)
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                raise UnavailableError(f"the scores of run {run_id} cannot be read: {error.message}") from None
            session.execute(delete(ScoreRow).where(ScoreRow.run_id == run_id))
            found = _rows(run, _attempts(session, run_id)) if run.info.lifecycle_stage == "active" else []
            apply_corrections(session, run_id, found)
            session.add_all(found)
            row.experiment_id, row.model = str(run.info.experiment_id), model_label(run)[:_LONGEST]
            row.source, row.created_at = _source(run) if found else "", (run.info.start_time or 0) / 1000
        return len(found)

    def primary_scores(
        self,
        *,
        experiment_ids: Collection[str] | None = None,
        suite: str | None = None,
        tasks: Collection[str] | None = None,
        models: Collection[str] | None = None,
    ) -> list[Score]:
        """Primary scores of runs that are not deleted. `experiment_ids` None means all, an empty one none."""
        query = select(ScoreRow).where(ScoreRow.primary, ScoreRow.dimension == "")
        if experiment_ids is not None:
            query = query.where(ScoreRow.experiment_id.in_(experiment_ids))
        if suite is not None:
            query = query.where(ScoreRow.suite == suite)
        if tasks is not None:
            query = query.where(ScoreRow.task.in_(tasks))
        if models is not None:
            query = query.where(ScoreRow.model.in_(models))
        with self._store.session() as session:
            rows = list(session.scalars(query))
        alive = self._active({row.run_id: row.experiment_id for row in rows})
        return [_score(row) for row in rows if row.run_id in alive]

    def of_runs(self, run_ids: Collection[str]) -> list[Score]:
        """Primary scores of these runs, whatever became of them; who may read them is for the caller to ask."""
        query = select(ScoreRow).where(ScoreRow.primary, ScoreRow.dimension == "", ScoreRow.run_id.in_(run_ids))
        with self._store.session() as session:
            return [_score(row) for row in session.scalars(query)]

    def suites(self, experiment_ids: Collection[str] | None) -> list[str]:
        """Names of the suites that have scores."""
        query = select(ScoreRow.suite).distinct().order_by(ScoreRow.suite)
        if experiment_ids is not None:
            query = query.where(ScoreRow.experiment_id.in_(experiment_ids))
        with self._store.session() as session:
            return list(session.scalars(query))

    def recorded_runs(
        self,
        *,
        experiment_ids: Collection[str] | None = None,
        model: str | None = None,
        before: float | None = None,
        limit: int = 100,
    ) -> list[Run]:
        """Runs with results that no queue of ours knows and that are not deleted, newest first."""
        query = (
            select(IndexedRunRow)
            .where(IndexedRunRow.source != "", IndexedRunRow.run_id.not_in(select(EvaluationRow.run_id)))
            .order_by(IndexedRunRow.created_at.desc(), IndexedRunRow.run_id)
            .limit(limit)
        )
        if experiment_ids is not None:
            query = query.where(IndexedRunRow.experiment_id.in_(experiment_ids))
        if model is not None:
            query = query.where(IndexedRunRow.model == model)
        found: list[Run] = []
        while len(found) < limit:  # deleted runs leave gaps
            with self._store.session() as session:
                older = query if before is None else query.where(IndexedRunRow.created_at < before)
                rows = list(session.scalars(older))
            active = self._active({row.run_id: row.experiment_id for row in rows})
            found += [active[row.run_id] for row in rows if row.run_id in active]
            if len(rows) < limit:
                break
            before = rows[-1].created_at
        return found[:limit]

    def _active(self, runs: dict[str, str]) -> dict[str, Run]:
        """Those of the runs (id → experiment) that are not deleted."""
        active: dict[str, Run] = {}
        run_ids = list(runs)
        for start in range(0, len(run_ids), _RUNS_AT_ONCE):
            some = run_ids[start : start + _RUNS_AT_ONCE]
            listed = ", ".join(f"'{run_id}'" for run_id in some)
            found = self._client.search_runs(
                sorted({runs[run_id] for run_id in some}),
                f"attributes.run_id IN ({listed})",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=_RUNS_AT_ONCE,
            )
            active |= {run.info.run_id: run for run in found}
        return active


def _locked(session: Session, run_id: str) -> IndexedRunRow:
    """The run's own row, made when it is not there; one transaction at a time has it."""
    with suppress(IntegrityError), session.begin_nested():
        session.add(IndexedRunRow(run_id=run_id, experiment_id="", model="", source="", created_at=0.0))
    return session.get_one(IndexedRunRow, run_id, with_for_update=True, populate_existing=True)


def _attempts(session: Session, run_id: str) -> dict[str, int]:
    found = session.execute(select(TaskRow.task, TaskRow.attempt).where(TaskRow.run_id == run_id))
    return {row.task: row.attempt for row in found}


def _rows(run: Run, attempts: dict[str, int]) -> list[ScoreRow]:
    values = {name: value for name, value in metric_values(run).items() if math.isfinite(value)}
    tasks = set(recorded_tasks(run.data.tags))
    return [
        _row(name, value, values, run, attempts.get(name.task, 1))
        for name, value in values.items()
        if name.statistic is None and name.task in tasks
    ]


def _row(name: MetricName, value: float, values: dict[MetricName, float], run: Run, attempt: int) -> ScoreRow:
    tags = run.data.tags
    primary = tag_object(tags, Tag.primary(name.task))
    count = values.get(name.of("n"))
    is_primary = (primary.get("metric"), primary.get("filter")) == (name.metric, name.filter)
    told = primary if is_primary else {}
    return ScoreRow(
        run_id=run.info.run_id,
        task=name.task,
        metric=name.metric,
        filter=name.filter,
        dimension=cut(name.dimension or ""),
        slice=cut(name.value or ""),
        experiment_id=str(run.info.experiment_id),
        model=model_label(run)[:_LONGEST],
        suite=cut(suite_of(run)),
        value=value,
        low=values.get(name.of("ci_low")),
        high=values.get(name.of("ci_high")),
        n=int(count) if count is not None else None,
        higher_is_better=_truth(told.get("higher_is_better")),
        primary=is_primary,
        partial=is_partial(run, name.task),
        attempt=attempt,
        fingerprint=json.dumps(tag_object(tags, Tag.fingerprint(name.task))),
        recorded_at=_number(primary.get("recorded_at")) or (run.info.start_time or 0) / 1000,
        source=_source(run),
        reported_source=tags.get(Tag.REPORTED_SOURCE, "")[:_LONGEST] or None,
        warnings=json.dumps(_warning_names(told.get("warnings"))),
        factor=_number(told.get("factor")),
        scale_high=_scale_high(told.get("scale")),
    )


def _source(run: Run) -> str:
    return str(run.data.tags.get(Tag.SOURCE) or CLIENT)[:_SOURCE_LONGEST]


def _warning_names(told: Any) -> list[str]:
    items = told if isinstance(told, list) else []
    names = [item.get("name") if isinstance(item, dict) else item for item in items]
    return [name for name in names if isinstance(name, str)]


def _scale_high(told: Any) -> float | None:
    return _number(told.get("high") if isinstance(told, dict) else told)


def _number(told: Any) -> float | None:
    if isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
        return None
    return float(told)


def _truth(told: Any) -> bool | None:
    return told if isinstance(told, bool) else None


def _score(row: ScoreRow) -> Score:
    return Score(
        run_id=row.run_id,
        experiment_id=row.experiment_id,
        model=row.model,
        suite=row.suite,
        task=row.task,
        metric=row.metric,
        filter=row.filter,
        value=row.value,
        low=row.low,
        high=row.high,
        n=row.n,
        higher_is_better=row.higher_is_better,
        partial=row.partial,
        attempt=row.attempt,
        fingerprint=json.loads(row.fingerprint),
        recorded_at=row.recorded_at,
        source=row.source,
        reported_source=row.reported_source,
        warnings=tuple(json.loads(row.warnings)),
        factor=row.factor,
        scale_high=row.scale_high,
    )
