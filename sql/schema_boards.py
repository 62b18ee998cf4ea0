"""Tables that boards are read from. All of it is rebuilt from `lmms_scores` and the runs at will."""

from __future__ import annotations

from sqlalchemy import Boolean, Float, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from mlflow_lmms.sql.schema import Base

_RUN_ID = String(64)
_NAME = String(250)


class BoardCellRow(Base):
    """A result that some board may show in a cell: a copy of the task's primary row of `lmms_scores`.

    `latest`: the newest of its suite, or the newest published score of its source. `best`: the best of its suite
    among those that are made in the same way. Results that are neither have no row.
    """

    __tablename__ = "lmms_board_cells"

    experiment_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    task: Mapped[str] = mapped_column(_NAME, primary_key=True)
    model: Mapped[str] = mapped_column(String(500), primary_key=True)
    run_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    latest: Mapped[bool] = mapped_column(Boolean)
    best: Mapped[bool] = mapped_column(Boolean)
    metric: Mapped[str] = mapped_column(_NAME)
    filter: Mapped[str] = mapped_column(_NAME)
    suite: Mapped[str] = mapped_column(_NAME)
    value: Mapped[float] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    n: Mapped[int | None] = mapped_column(Integer)
    higher_is_better: Mapped[bool | None] = mapped_column(Boolean)
    partial: Mapped[bool] = mapped_column(Boolean)
    attempt: Mapped[int] = mapped_column(Integer)
    fingerprint: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[float] = mapped_column(Float)
    source: Mapped[str] = mapped_column(String(16))
    reported_source: Mapped[str | None] = mapped_column(String(500))
    warnings: Mapped[str] = mapped_column(Text)
    factor: Mapped[float | None] = mapped_column(Float)
    scale_high: Mapped[float | None] = mapped_column(Float)


class BoardColumnRow(Base):
    """One task of one experiment; `revision` is another text after each change of its cells."""

    __tablename__ = "lmms_board_columns"

    experiment_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    task: Mapped[str] = mapped_column(_NAME, primary_key=True)
    revision: Mapped[str] = mapped_column(String(32))


class RunTagRow(Base):
    """A tag that users gave a run, for boards that are narrowed by it."""

    __tablename__ = "lmms_run_tags"
    __table_args__ = (Index("ix_lmms_run_tags_value", "key", "value"),)

    run_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    key: Mapped[str] = mapped_column(_NAME, primary_key=True)
    value: Mapped[str] = mapped_column(_NAME)
