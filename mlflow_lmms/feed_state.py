"""What the score index has still to look at, and how far walks over all runs are: `lmms_dirty`, `lmms_walks`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update
from sqlalchemy.orm import sessionmaker

from mlflow_lmms.sql.schema_feed import DirtyRow, WalkRow


class Kind(StrEnum):
    """What a note is about."""

    RUN = "run"
    EXPERIMENT = "experiment"


@dataclass(frozen=True)
class Note:
    """One row of `lmms_dirty`; `after` is the experiment's last run that was looked at."""

    id: int
    kind: Kind
    target: str
    after: str


@dataclass(frozen=True)
class Walk:
    """A walk over all runs; `ended_at` is None while it goes on. Times are unix seconds."""

    name: str
    after: str
    done: int
    total: int
    started_at: float
    ended_at: float | None

    def as_json(self) -> dict[str, Any]:
        """For the API."""
        return {name: getattr(self, name) for name in ("done", "total", "started_at", "ended_at")}


class FeedState:
    """Reads and writes the two tables."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._session = sessionmaker(engine)
        self._now = clock

    def note(self, runs: Iterable[str], experiments: Iterable[str] = ()) -> None:
        """Keep what was written to until somebody has looked at it."""
        now = self._now()
        targets = [(Kind.RUN, run_id) for run_id in sorted(runs)]
        targets += [(Kind.EXPERIMENT, experiment_id) for experiment_id in sorted(experiments)]
        rows = [{"kind": kind, "target": target, "after": "", "noted_at": now} for kind, target in targets]
        if rows:
            with self._session.begin() as session:
                session.execute(insert(DirtyRow), rows)

    def notes(self, kind: Kind, limit: int) -> list[Note]:
        """The oldest notes of a kind."""
        query = select(DirtyRow).where(DirtyRow.kind == kind).order_by(DirtyRow.id).limit(limit)
        with self._session() as session:
            return [Note(row.id, Kind(row.kind), row.target, row.after) for row in session.scalars(query)]

    def settle(self, notes: Collection[Note]) -> None:
        """Remove notes that were looked at; what was noted since stays."""
        with self._session.begin() as session:
            session.execute(delete(DirtyRow).where(DirtyRow.id.in_([note.id for note in notes])))

    def advance_note(self, note: Note, after: str) -> None:
        """Remember how far an experiment was looked at."""
        with self._session.begin() as session:
            session.execute(update(DirtyRow).where(DirtyRow.id == note.id).values(after=after))

    def waiting(self) -> int:
        """How many notes there are."""
        with self._session() as session:
            return int(session.scalar(select(func.count()).select_from(DirtyRow)) or 0)

    def walk(self, name: str) -> Walk | None:
        """The walk of this name, also one that has ended."""
        with self._session() as session:
            row = session.get(WalkRow, name)
            return None if row is None else _walk(row)

    def start_walk(self, name: str, total: int) -> Walk:
        """Begin a walk anew."""
        row = WalkRow(name=name, after="", done=0, total=total, started_at=self._now(), ended_at=None)
        with self._session.begin() as session:
            return _walk(session.merge(row))

    def advance_walk(self, walk: Walk, *, after: str, seen: int, ended: bool) -> None:
        """Remember how far the walk has come; nothing happens when it was begun anew meanwhile."""
        values: dict[str, Any] = {"after": after, "done": WalkRow.done + seen}
        if ended:
            values["ended_at"] = self._now()
        same = (WalkRow.name == walk.name, WalkRow.started_at == walk.started_at, WalkRow.after == walk.after)
        with self._session.begin() as session:
            session.execute(update(WalkRow).where(*same).values(**values))


def _walk(row: WalkRow) -> Walk:
    return Walk(row.name, row.after, row.done, row.total, row.started_at, row.ended_at)
