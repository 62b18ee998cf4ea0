"""Finds the results that trends and reports of a period are made of, in the score index alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.database import reading
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.model_trend import Entry, family, latest_of_versions, make_trends
from mlflow_lmms.period import changes_in, counts
from mlflow_lmms.score import Vectors
from mlflow_lmms.score_rows import score_columns, score_of
from mlflow_lmms.sql.schema import IndexedRunRow, ScoreRow

#: Results of a period come from runs that began in it or this long before: a suite takes its time, a rescore waits.
_EARLIER_S = 30 * 86400.0
_RUNS_AT_ONCE = 500
_MOST_RUNS, _MOST_OF_A_MODEL = 2_000, 100

Over = Literal["version", "time"]


@dataclass(frozen=True)
class Narrowing:
    """Which results take part; `experiment_ids` are those that the caller may read, None means all."""

    experiment_ids: Collection[str] | None
    suite: str | None = None
    tasks: Collection[str] = ()
    partial: bool = False


class Trends:
    """Reads runs by model from the index, newest first, and their primary scores by run."""

    def __init__(self, engine: Engine, vectors: Vectors) -> None:
        self._engine = reading(engine)
        self._vectors = vectors

    def trend(self, model: str, narrowing: Narrowing, over: Over = "version") -> dict[str, Any]:
        """A model's results by task: the latest of each version, or all of them in the order of time.

        Raises:
            NotFoundError: the index has no result of this model that the caller may read.
        """
        with Session(self._engine) as session:
            labels = [label for label in self._labels(narrowing, session, model) if _is_of(label, model)]
            runs = self._runs(narrowing, session, IndexedRunRow.model.in_(labels))
            entries = self._entries(runs, narrowing, session)
        if not entries:
            raise NotFoundError(
                f"there is no result of model {model!r}, or you may not read it; a registered model goes by its name "
                "without the version, others by the name that the leaderboard shows"
            )
        by_time = sorted(entries, key=lambda entry: entry.score.recorded_at)
        trends = make_trends(latest_of_versions(entries) if over == "version" else by_time, self._vectors)
        return {
            "model": model,
            "over": over,
            "level": LEVEL,
            "truncated": len(runs) >= _MOST_RUNS,
            "tasks": [trend.as_json() for trend in trends],
        }

    def changes(self, since: float, until: float, narrowing: Narrowing) -> dict[str, Any]:
        """What changed in a period, model by model and task by task."""
        with Session(self._engine) as session:
            began = (IndexedRunRow.created_at >= since - _EARLIER_S, IndexedRunRow.created_at <= until)
            recent = self._runs(narrowing, session, *began)
            fresh = [
                entry
                for entry in self._entries(recent, narrowing, session)
                if since <= entry.score.recorded_at <= until
            ]
            runs = self._histories({family(entry.score.model)[0] for entry in fresh}, until, narrowing, session)
            entries = self._entries(runs, narrowing, session)
        changes = changes_in((entry.score for entry in entries), since, until, self._vectors)
        return {
            "since": since,
            "until": until,
            "level": LEVEL,
            "truncated": len(recent) >= _MOST_RUNS,
            "counts": counts(changes),
            "changes": [change.as_json() for change in changes],
        }

    def _labels(self, narrowing: Narrowing, session: Session, model: str | None = None) -> list[str]:
        """Names of models as boards show them, all or those that begin with this one."""
        query = _readable(select(IndexedRunRow.model).distinct(), narrowing)
        if model is not None:
            query = query.where(IndexedRunRow.model.startswith(model, autoescape=True))
        return list(session.scalars(query))

    def _histories(
        self, models: Collection[str], until: float, narrowing: Narrowing, session: Session
    ) -> dict[str, int | None]:
        """The newest runs of each model, whatever its version, that began before the end of the period."""
        labels: dict[str, list[str]] = defaultdict(list)
        for label in self._labels(narrowing, session) if models else ():
            labels[family(label)[0]].append(label)
        found: dict[str, int | None] = {}
        for model in sorted(models):
            conditions = (IndexedRunRow.model.in_(labels[model]), IndexedRunRow.created_at <= until)
            found |= self._runs(narrowing, session, *conditions, most=_MOST_OF_A_MODEL)
        return found

    def _runs(
        self, narrowing: Narrowing, session: Session, *conditions: Any, most: int = _MOST_RUNS
    ) -> dict[str, int | None]:
        """The newest runs with results, and the revision of their suite."""
        query = (
            _readable(select(IndexedRunRow.run_id, IndexedRunRow.suite_revision), narrowing)
            .where(IndexedRunRow.source != "", *conditions)
            .order_by(IndexedRunRow.created_at.desc())
            .limit(most)
        )
        return {row.run_id: row.suite_revision for row in session.execute(query)}

    def _entries(self, runs: dict[str, int | None], narrowing: Narrowing, session: Session) -> list[Entry]:
        return [
            Entry(score, runs[score.run_id])
            for some in _some(list(runs))
            for row in session.execute(_primary(some, narrowing))
            if (score := score_of(row))
        ]


def _is_of(label: str, model: str) -> bool:
    return label == model or family(label)[0] == model


def _readable(query: Any, narrowing: Narrowing) -> Any:
    if narrowing.experiment_ids is None:
        return query
    return query.where(IndexedRunRow.experiment_id.in_(narrowing.experiment_ids))


def _primary(run_ids: Sequence[str], narrowing: Narrowing) -> Any:
    query = select(*score_columns(ScoreRow)).where(
        ScoreRow.run_id.in_(run_ids), ScoreRow.primary, ScoreRow.dimension == ""
    )
    if narrowing.suite is not None:
        query = query.where(ScoreRow.suite == narrowing.suite)
    if narrowing.tasks:
        query = query.where(ScoreRow.task.in_(narrowing.tasks))
    if not narrowing.partial:
        query = query.where(ScoreRow.partial.is_(False))
    return query


def _some(run_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (run_ids[start : start + _RUNS_AT_ONCE] for start in range(0, len(run_ids), _RUNS_AT_ONCE))
