"""The score index: the MLflow runs' metrics as rows that boards are made of; rebuilt from the runs at will."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy import delete, select

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.leaderboard import Score
from mlflow_lmms.names import MetricName, Tag, cut, was_cut
from mlflow_lmms.sql.schema import EvaluationRow, ScoreRow

_RUNS_AT_ONCE = 100


class ScoreIndex:
    """Writes and reads `lmms_scores`."""

    def __init__(self, store: EvaluationStore, client: MlflowClient) -> None:
        self._store = store
        self._client = client

    def refresh(self, evaluation: Evaluation, _task: str = "") -> None:
        """Read the run's metrics and put them in place of what the index held of it.

        Raises:
            UnavailableError: MLflow does not hand out the run.
        """
        own = EvaluationRow.run_id == evaluation.run_id
        with self._store.session() as session, session.begin():
            # Locked before the run is read: of two tasks that end at once the later reader must write last.
            session.execute(select(EvaluationRow.run_id).where(own).with_for_update())
            try:
                run = self._client.get_run(evaluation.run_id)
            except MlflowException as error:
                message = f"the scores of run {evaluation.run_id} cannot be read: {error.message}"
                raise UnavailableError(message) from None
            session.execute(delete(ScoreRow).where(ScoreRow.run_id == evaluation.run_id))
            session.add_all(_rows(run, evaluation))

    def primary_scores(
        self,
        *,
        experiment_ids: Collection[str] | None = None,
        suite: str | None = None,
        tasks: Collection[str] | None = None,
    ) -> list[Score]:
        """Primary scores of runs that are not deleted. `experiment_ids` None means all, an empty one none."""
        query = select(ScoreRow).where(ScoreRow.primary, ScoreRow.dimension == "")
        if experiment_ids is not None:
            query = query.where(ScoreRow.experiment_id.in_(experiment_ids))
        if suite is not None:
            query = query.where(ScoreRow.suite == suite)
        if tasks is not None:
            query = query.where(ScoreRow.task.in_(tasks))
        with self._store.session() as session:
            rows = list(session.scalars(query))
        alive = self._alive({row.run_id: row.experiment_id for row in rows})
        return [_score(row) for row in rows if row.run_id in alive]

    def suites(self, experiment_ids: Collection[str] | None) -> list[str]:
        """Names of the suites that have scores."""
        query = select(ScoreRow.suite).distinct().order_by(ScoreRow.suite)
        if experiment_ids is not None:
            query = query.where(ScoreRow.experiment_id.in_(experiment_ids))
        with self._store.session() as session:
            return list(session.scalars(query))

    def _alive(self, runs: dict[str, str]) -> set[str]:
        alive: set[str] = set()
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
            alive |= {run.info.run_id for run in found}
        return alive


def _rows(run: Run, evaluation: Evaluation) -> list[ScoreRow]:
    tags = run.data.tags
    values: dict[MetricName, float] = {}
    for key, value in run.data.metrics.items():
        name = MetricName.parse(tags.get(Tag.whole_name(key), "") if was_cut(key) else key)
        if name is not None and math.isfinite(value):
            values[name] = value
    return [
        _row(name, value, values, tags, evaluation)
        for name, value in values.items()
        if name.statistic is None and any(task.task == name.task for task in evaluation.tasks)
    ]


def _row(
    name: MetricName, value: float, values: dict[MetricName, float], tags: dict[str, str], evaluation: Evaluation
) -> ScoreRow:
    primary = _object(tags.get(Tag.primary(name.task)))
    count = values.get(name.of("n"))
    is_primary = (primary.get("metric"), primary.get("filter")) == (name.metric, name.filter)
    return ScoreRow(
        run_id=evaluation.run_id,
        task=name.task,
        metric=name.metric,
        filter=name.filter,
        dimension=cut(name.dimension or ""),
        slice=cut(name.value or ""),
        experiment_id=evaluation.experiment_id,
        model=evaluation.model,
        suite=evaluation.suite,
        value=value,
        low=values.get(name.of("ci_low")),
        high=values.get(name.of("ci_high")),
        n=int(count) if count is not None else None,
        higher_is_better=primary.get("higher_is_better") if is_primary else None,
        primary=is_primary,
        partial=evaluation.request.partial,
        attempt=next(task.attempt for task in evaluation.tasks if task.task == name.task),
        fingerprint=json.dumps(_object(tags.get(Tag.fingerprint(name.task)))),
        recorded_at=float(primary.get("recorded_at") or evaluation.created_at),
    )


def _object(text: str | None) -> dict[str, Any]:
    """A tag's JSON object; empty where it is none, because users may edit tags in MLflow's page."""
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


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
    )
