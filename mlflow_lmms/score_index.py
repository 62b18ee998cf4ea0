"""The score index: the MLflow runs' metrics as rows that boards are made of; rebuilt from the runs at will.

`score_feed` decides when to look at which run; what rows a run makes stands in `run_scores`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from mlflow.entities import Run
from sqlalchemy import Select, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from mlflow_lmms.board_cells import BoardCells
from mlflow_lmms.corrections import apply_corrections
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.replaced_rows import replace_rows
from mlflow_lmms.run_scores import (
    digest_of,
    indexed_model,
    indexed_source,
    is_deleted,
    is_ours,
    score_rows,
    suite_revision,
)
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.score import Score
from mlflow_lmms.score_rows import score_columns, score_of
from mlflow_lmms.sql.schema import EvaluationRow, IndexedRunRow, ScoreRow, TaskRow

_AT_ONCE = 500
_EMPTY = {"experiment_id": "", "model": "", "source": "", "created_at": 0.0, "digest": ""}


class ScoreIndex:
    """Writes and reads `lmms_scores`."""

    def __init__(self, store: EvaluationStore, runs: RunTables, cells: BoardCells) -> None:
        self._store = store
        self._runs = runs
        self._cells = cells

    def refresh(self, evaluation: Evaluation, _task: str = "") -> None:
        """`refresh_run`, as the lifecycle calls it when a task has finished."""
        self.refresh_run(evaluation.run_id)

    def refresh_run(self, run_id: str) -> int:
        """`refresh_runs` of one run."""
        return self.refresh_runs([run_id])

    def refresh_runs(self, run_ids: Collection[str], *, anew: bool = False) -> int:
        """Read the runs and let the index hold just their scores; returns how many there are.

        Everything comes from the runs themselves, so that it does not matter who wrote them. Of a run that is
        deleted, gone or not ours no score stays. Tasks whose rows are as they were are not written, unless `anew`.

        Raises:
            UnavailableError: MLflow's database does not answer; the index is as it was.
        """
        with self._store.session() as session, session.begin():
            # Locked before the runs are read: of two tasks that end at once the later reader must write last.
            known = _locked(session, run_ids)
            runs = {run_id: run for run_id, run in self._runs.read(known.keys()).items() if is_ours(run)}
            attempts = _attempts(session, known.keys())
            rows = [row for run_id, run in runs.items() for row in score_rows(run, attempts[run_id])]
            apply_corrections(session, rows)
            touched = replace_rows(session, known.keys(), rows, anew=anew)
            with_scores = {row.run_id for row in rows}
            for run_id, row in known.items():
                self._describe(session, row, runs.get(run_id), has_scores=run_id in with_scores, anew=anew)
            self._cells.follow(session, touched)
        return len(rows)

    def _describe(
        self, session: Session, row: IndexedRunRow, run: Run | None, *, has_scores: bool, anew: bool
    ) -> None:
        """Note what the run is now; forget it when it is gone or not ours."""
        digest = "" if run is None else digest_of(run)
        if anew or digest != row.digest or run is None:
            self._cells.describe(session, row.run_id, {} if run is None or is_deleted(run) else run.data.tags)
        if run is None:
            session.delete(row)
            return
        row.experiment_id, row.model = str(run.info.experiment_id), indexed_model(run)
        row.source, row.created_at = indexed_source(run) if has_scores else "", (run.info.start_time or 0) / 1000
        row.digest, row.suite_revision = digest, suite_revision(run)

    def concerned(self, run_ids: Collection[str]) -> set[str]:
        """Those of the runs that have, or had when they were last looked at, anything of ours."""
        return self._runs.with_results(run_ids) | self._digests(run_ids).keys()

    def outdated(self, run_ids: Collection[str]) -> list[str]:
        """Those of the runs that are no longer as the index knows them; runs of others cost one look for all."""
        known = self._digests(run_ids)
        ours = self._runs.with_results(run_ids) | known.keys()
        runs = self._runs.read(ours)
        return sorted(id_ for id_ in ours if id_ not in runs or digest_of(runs[id_]) != known.get(id_))

    def known_between(self, after: str, last: str | None) -> list[str]:
        """Runs that the index knows, with ids above `after` and up to `last` (None: to the end)."""
        query = select(IndexedRunRow.run_id).where(IndexedRunRow.run_id > after)
        if last is not None:
            query = query.where(IndexedRunRow.run_id <= last)
        with self._store.session() as session:
            return list(session.scalars(query))

    def _digests(self, run_ids: Collection[str]) -> dict[str, str]:
        query, listed = select(IndexedRunRow.run_id, IndexedRunRow.digest), list(run_ids)
        with self._store.session() as session:
            return {
                row.run_id: row.digest
                for start in range(0, len(listed), _AT_ONCE)
                for row in session.execute(query.where(IndexedRunRow.run_id.in_(listed[start : start + _AT_ONCE])))
            }

    def primary_scores(
        self,
        *,
        experiment_ids: Collection[str] | None = None,
        suite: str | None = None,
        tasks: Collection[str] | None = None,
        models: Collection[str] | None = None,
    ) -> list[Score]:
        """Primary scores of runs that are not deleted. `experiment_ids` None means all, an empty one none."""
        query = _primary()
        if experiment_ids is not None:
            query = query.where(ScoreRow.experiment_id.in_(experiment_ids))
        if suite is not None:
            query = query.where(ScoreRow.suite == suite)
        if tasks is not None:
            query = query.where(ScoreRow.task.in_(tasks))
        if models is not None:
            query = query.where(ScoreRow.model.in_(models))
        return self._found(query)

    def of_runs(self, run_ids: Collection[str]) -> list[Score]:
        """Primary scores of these runs as far as they are not deleted; who may read them is for the caller to ask."""
        return self._found(_primary().where(ScoreRow.run_id.in_(run_ids)))

    def _found(self, query: Select[Any]) -> list[Score]:
        with self._store.session() as session:
            return [score_of(row) for row in session.execute(query)]

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
        while len(found) < limit:  # runs that were deleted a moment ago leave gaps
            with self._store.session() as session:
                older = query if before is None else query.where(IndexedRunRow.created_at < before)
                rows = list(session.scalars(older))
            runs = self._runs.read([row.run_id for row in rows])
            found += [runs[row.run_id] for row in rows if row.run_id in runs and not is_deleted(runs[row.run_id])]
            if len(rows) < limit:
                break
            before = rows[-1].created_at
        return found[:limit]


def _primary() -> Select[Any]:
    return select(*score_columns(ScoreRow)).where(ScoreRow.primary, ScoreRow.dimension == "")


def _locked(session: Session, run_ids: Collection[str]) -> dict[str, IndexedRunRow]:
    """The runs' own rows, made where they are not there; held by one transaction at a time, taken in order."""
    wanted = sorted(set(run_ids))
    if not wanted:
        return {}
    add = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    rows = [{"run_id": run_id, **_EMPTY} for run_id in wanted]
    session.execute(add(IndexedRunRow).on_conflict_do_nothing(), rows)
    query = select(IndexedRunRow).where(IndexedRunRow.run_id.in_(wanted)).order_by(IndexedRunRow.run_id)
    found = session.scalars(query.with_for_update(), execution_options={"populate_existing": True})
    return {row.run_id: row for row in found}


def _attempts(session: Session, run_ids: Collection[str]) -> defaultdict[str, dict[str, int]]:
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    query = select(TaskRow.run_id, TaskRow.task, TaskRow.attempt).where(TaskRow.run_id.in_(run_ids))
    for row in session.execute(query):
        found[row.run_id][row.task] = row.attempt
    return found
