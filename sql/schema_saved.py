"""Tables of what people keep beside the results: saved views, notes, corrections. Rows are added and never changed.

Each row that speaks of runs holds the ids of their experiments, which never change, so that a query can leave out
what its caller may not read.
"""

from __future__ import annotations

from sqlalchemy import Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from mlflow_lmms.sql.schema import Base

_ID = String(64)
_NAME = String(250)


class SavedViewRow(Base):
    """A saved board or comparison: what kind, whose, and the number of its newest revision."""

    __tablename__ = "lmms_saved_views"

    view_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str | None] = mapped_column(_NAME, index=True)
    created_at: Mapped[float] = mapped_column(Float)
    revision: Mapped[int] = mapped_column(Integer)


class SavedViewRevisionRow(Base):
    """One revision of a view. `experiments` (JSON) are those that its reader must be allowed to read."""

    __tablename__ = "lmms_saved_view_revisions"

    view_id: Mapped[str] = mapped_column(ForeignKey("lmms_saved_views.view_id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    experiments: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(_NAME)
    created_at: Mapped[float] = mapped_column(Float)
    note: Mapped[str] = mapped_column(Text)


class NoteRow(Base):
    """A note on a run, on a result (its cell on a board), or on a sample of it.

    `task` is empty for the whole run. A sample is known by its row in the samples table, and by its document's key,
    which still finds it when the task was scored again.
    """

    __tablename__ = "lmms_notes"
    __table_args__ = (
        Index("ix_lmms_notes_run", "run_id", "task"),
        Index("ix_lmms_notes_experiment", "experiment_id", "note_id"),
    )

    note_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    experiment_id: Mapped[str] = mapped_column(_ID)
    run_id: Mapped[str] = mapped_column(_ID)
    task: Mapped[str] = mapped_column(_NAME)
    sample: Mapped[int | None] = mapped_column(Integer)
    document: Mapped[str | None] = mapped_column(String(128))
    text: Mapped[str] = mapped_column(Text)
    author: Mapped[str | None] = mapped_column(_NAME)
    created_at: Mapped[float] = mapped_column(Float)


class CorrectionRow(Base):
    """What somebody said of a task's result in a run; of several the newest counts.

    `action`: ``invalidate``, ``rescore`` (then with a value, in the primary metric's own units) or ``restore``.
    """

    __tablename__ = "lmms_corrections"
    __table_args__ = (
        Index("ix_lmms_corrections_run", "run_id", "task"),
        Index("ix_lmms_corrections_experiment", "experiment_id", "correction_id"),
    )

    correction_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    experiment_id: Mapped[str] = mapped_column(_ID)
    run_id: Mapped[str] = mapped_column(_ID)
    task: Mapped[str] = mapped_column(_NAME)
    action: Mapped[str] = mapped_column(String(16))
    value: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    reason: Mapped[str] = mapped_column(Text)
    author: Mapped[str | None] = mapped_column(_NAME)
    created_at: Mapped[float] = mapped_column(Float)
