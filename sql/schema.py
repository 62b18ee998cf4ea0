"""The tables that we add to a database, all named ``lmms_*``. Times are unix seconds.

What is in an MLflow run is not repeated here, save the score index, which `mlflow_lmms.score_index` rebuilds from
the runs.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VERSION_TABLE = "lmms_alembic_version"

_RUN_ID = String(64)
_NAME = String(250)


class Base(DeclarativeBase):
    """Base of our tables."""


class EvaluationRow(Base):
    """One evaluation, which is an MLflow run: the request and the lifecycle of the whole.

    `mirrored` is the state that the MLflow run was last given; where it differs from `state`, that is still to do.
    """

    __tablename__ = "lmms_evaluations"

    run_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(_RUN_ID, index=True)
    name: Mapped[str] = mapped_column(String(500))
    model: Mapped[str] = mapped_column(String(500), index=True)
    suite: Mapped[str] = mapped_column(_NAME)
    request: Mapped[str] = mapped_column(Text)
    resolved: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), index=True)
    mirrored: Mapped[str | None] = mapped_column(String(16))
    priority: Mapped[str] = mapped_column(String(16))
    created_by: Mapped[str | None] = mapped_column(_NAME)
    created_at: Mapped[float] = mapped_column(Float, index=True)
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    group_definitions: Mapped[str] = mapped_column(Text, default="[]", server_default="[]")


class PartRow(Base):
    """One part of a run: tasks that share one model load on one slot. `token` fences its current owner."""

    __tablename__ = "lmms_evaluation_parts"

    run_id: Mapped[str] = mapped_column(ForeignKey("lmms_evaluations.run_id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[str] = mapped_column(String(16), primary_key=True)
    gpus: Mapped[int] = mapped_column(Integer)
    token: Mapped[int] = mapped_column(BigInteger, default=0)
    box: Mapped[str | None] = mapped_column(_NAME)
    slot: Mapped[str | None] = mapped_column(_NAME)
    devices: Mapped[str] = mapped_column(Text, default="[]")
    claimed_at: Mapped[float | None] = mapped_column(Float)
    seen_at: Mapped[float | None] = mapped_column(Float)
    queued_at: Mapped[float | None] = mapped_column(Float)
    rescore: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    out_of_memory: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class TaskRow(Base):
    """One task of a run: state, attempts, and what is known of its failure or result."""

    __tablename__ = "lmms_evaluation_tasks"
    __table_args__ = (
        Index("ix_lmms_evaluation_tasks_state", "state"),
        Index("ix_lmms_evaluation_tasks_task", "task", "ended_at"),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("lmms_evaluations.run_id", ondelete="CASCADE"), primary_key=True)
    task: Mapped[str] = mapped_column(_NAME, primary_key=True)
    part: Mapped[str] = mapped_column(String(16))
    position: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(Integer, default=1)
    automatic_retries: Mapped[int] = mapped_column(Integer, default=0)
    retries: Mapped[str] = mapped_column(Text, default="{}", server_default="{}")
    failure: Mapped[str | None] = mapped_column(String(32))
    message: Mapped[str | None] = mapped_column(Text)
    log_tail: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    samples: Mapped[int | None] = mapped_column(Integer)
    metric: Mapped[str | None] = mapped_column(_NAME)
    score: Mapped[float | None] = mapped_column(Float)


class IndexedRunRow(Base):
    """A run whose results the score index holds (`source` is empty where it holds none); locked while they are
    replaced. With it an imported run has a place in lists, although no queue knows it. `digest` tells whether the
    run is as it was then. Runs of others have no row.
    """

    __tablename__ = "lmms_indexed_runs"

    run_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(_RUN_ID, index=True)
    model: Mapped[str] = mapped_column(String(500))
    source: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Float, index=True)
    digest: Mapped[str] = mapped_column(String(32), default="", server_default="")
    suite_revision: Mapped[int | None] = mapped_column(Integer)


class ScoreRow(Base):
    """Score index: one row per run, task, metric, filter and slice (empty dimension: the whole task).

    `factor` turns the mean of the samples' scores into `value` (1 or 100); `scale_high` is the largest value there
    can be. Both are None where that is not known.
    """

    __tablename__ = "lmms_scores"
    __table_args__ = (Index("ix_lmms_scores_board", "experiment_id", "task", "model", "dimension"),)

    run_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    task: Mapped[str] = mapped_column(_NAME, primary_key=True)
    metric: Mapped[str] = mapped_column(_NAME, primary_key=True)
    filter: Mapped[str] = mapped_column(_NAME, primary_key=True)
    dimension: Mapped[str] = mapped_column(_NAME, primary_key=True)
    slice: Mapped[str] = mapped_column(_NAME, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(_RUN_ID)
    model: Mapped[str] = mapped_column(String(500))
    suite: Mapped[str] = mapped_column(_NAME)
    value: Mapped[float] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    n: Mapped[int | None] = mapped_column(Integer)
    higher_is_better: Mapped[bool | None] = mapped_column(Boolean)
    primary: Mapped[bool] = mapped_column(Boolean)
    partial: Mapped[bool] = mapped_column(Boolean)
    attempt: Mapped[int] = mapped_column(Integer)
    fingerprint: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[float] = mapped_column(Float)
    source: Mapped[str] = mapped_column(String(16), default="queue", server_default="queue")
    reported_source: Mapped[str | None] = mapped_column(String(500))
    warnings: Mapped[str] = mapped_column(Text, default="[]", server_default="[]")
    factor: Mapped[float | None] = mapped_column(Float)
    scale_high: Mapped[float | None] = mapped_column(Float)


class SuiteRow(Base):
    """A suite's name, its author, who may change it, and the number of its newest revision."""

    __tablename__ = "lmms_suites"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    author: Mapped[str | None] = mapped_column(_NAME)
    created_at: Mapped[float] = mapped_column(Float)
    revision: Mapped[int] = mapped_column(Integer)


class SuiteRevisionRow(Base):
    """One revision of a suite. Rows are added and never changed: runs name them."""

    __tablename__ = "lmms_suite_revisions"

    name: Mapped[str] = mapped_column(ForeignKey("lmms_suites.name", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(_NAME)
    created_at: Mapped[float] = mapped_column(Float)
    note: Mapped[str] = mapped_column(Text)


class LeaderRow(Base):
    """Who of several server processes does the periodic work, until when."""

    __tablename__ = "lmms_leader"

    duty: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(_NAME)
    until: Mapped[float] = mapped_column(Float)


class BoxRow(Base):
    """What an admin said of a box: `paused` or `drained`. A box without a row is open."""

    __tablename__ = "lmms_boxes"

    box: Mapped[str] = mapped_column(_NAME, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="", server_default="")
    changed_by: Mapped[str | None] = mapped_column(_NAME)
    changed_at: Mapped[float] = mapped_column(Float)


class PartAttemptRow(Base):
    """One stretch of work on a part, under one fencing token: what it held and what it used.

    It outlives its run, because quotas and reports count what was used. `ended_at` is None while it goes on.
    """

    __tablename__ = "lmms_part_attempts"
    __table_args__ = (Index("ix_lmms_part_attempts_use", "ended_at", "user_name"),)

    run_id: Mapped[str] = mapped_column(_RUN_ID, primary_key=True)
    part: Mapped[str] = mapped_column(String(16), primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_name: Mapped[str] = mapped_column(_NAME)
    model: Mapped[str] = mapped_column(String(500), index=True)
    box: Mapped[str] = mapped_column(_NAME)
    gpus: Mapped[int] = mapped_column(Integer)
    devices: Mapped[str] = mapped_column(Text, default="[]")
    batch_size: Mapped[int] = mapped_column(Integer)
    queued_at: Mapped[float] = mapped_column(Float)
    claimed_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    outcome: Mapped[str | None] = mapped_column(String(16))
    gpu_seconds: Mapped[float | None] = mapped_column(Float)
    peak_memory: Mapped[int | None] = mapped_column(BigInteger)
    mean_utilisation: Mapped[float | None] = mapped_column(Float)
    energy_j: Mapped[float | None] = mapped_column(Float)
    fetch_s: Mapped[float | None] = mapped_column(Float)


class QuotaRow(Base):
    """What a user may have at a time and in the quota's period; the empty name: everybody without a row."""

    __tablename__ = "lmms_quotas"

    user_name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    gpus: Mapped[int | None] = mapped_column(Integer)
    gpu_hours: Mapped[float | None] = mapped_column(Float)
    changed_by: Mapped[str | None] = mapped_column(_NAME)
    changed_at: Mapped[float] = mapped_column(Float)
