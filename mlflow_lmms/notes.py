"""Notes on runs, on results (cells of boards) and on samples: added, and never changed or taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import Session

from mlflow_lmms.sql.schema_saved import NoteRow


@dataclass(frozen=True)
class Note:
    """One note. `task` is None for the whole run; `sample` is a row of the task's samples, `document` its key."""

    id: int
    experiment_id: str
    run_id: str
    task: str | None
    sample: int | None
    document: str | None
    text: str
    author: str | None
    created_at: float

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return asdict(self)


@dataclass(frozen=True)
class NotesAsked:
    """Which notes are asked for. `experiment_ids` are those that the caller may read, None: all.

    Attributes:
        task: only of this task; empty: only those on whole runs.
        sample: only of this row of the task's samples.
    """

    experiment_ids: Collection[str] | None
    run_ids: Collection[str] = ()
    task: str | None = None
    sample: int | None = None

    def of(self, query: Select[Any]) -> Select[Any]:
        """The query, narrowed."""
        if self.experiment_ids is not None:
            query = query.where(NoteRow.experiment_id.in_(self.experiment_ids))
        if self.run_ids:
            query = query.where(NoteRow.run_id.in_(self.run_ids))
        if self.task is not None:
            query = query.where(NoteRow.task == self.task)
        if self.sample is not None:
            query = query.where(NoteRow.sample == self.sample)
        return query


class Notes:
    """Reads and adds notes. Used by the server process alone; who may do so is for the caller to ask."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = clock

    def add(
        self,
        experiment_id: str,
        run_id: str,
        text: str,
        *,
        by: str | None,
        task: str | None = None,
        sample: int | None = None,
        document: str | None = None,
    ) -> Note:
        """Add a note."""
        row = NoteRow(
            experiment_id=experiment_id,
            run_id=run_id,
            task=task or "",
            sample=sample,
            document=document,
            text=text,
            author=by,
            created_at=self._now(),
        )
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            session.add(row)
        return _note(row)

    def search(self, asked: NotesAsked, *, before: int | None = None, limit: int = 100) -> list[Note]:
        """Notes, newest first; `before` is the id of the last one seen."""
        query = asked.of(select(NoteRow)).order_by(NoteRow.note_id.desc()).limit(limit)
        if before is not None:
            query = query.where(NoteRow.note_id < before)
        with Session(self._engine) as session:
            return [_note(row) for row in session.scalars(query)]

    def count(self, asked: NotesAsked) -> int:
        """How many there are, of what the caller may read."""
        with Session(self._engine) as session:
            return int(session.scalar(asked.of(select(func.count(NoteRow.note_id)))) or 0)


def _note(row: NoteRow) -> Note:
    return Note(
        id=row.note_id,
        experiment_id=row.experiment_id,
        run_id=row.run_id,
        task=row.task or None,
        sample=row.sample,
        document=row.document,
        text=row.text,
        author=row.author,
        created_at=row.created_at,
    )
