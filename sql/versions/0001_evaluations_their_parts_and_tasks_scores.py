"""Evaluations, their parts and tasks, scores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "lmms_evaluations",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("suite", sa.String(length=250), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("resolved", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("mirrored", sa.String(length=16), nullable=True),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("created_by", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
    with op.batch_alter_table("lmms_evaluations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lmms_evaluations_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_lmms_evaluations_experiment_id"), ["experiment_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_lmms_evaluations_state"), ["state"], unique=False)

    op.create_table(
        "lmms_leader",
        sa.Column("duty", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=250), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("duty"),
    )
    op.create_table(
        "lmms_scores",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=250), nullable=False),
        sa.Column("metric", sa.String(length=250), nullable=False),
        sa.Column("filter", sa.String(length=250), nullable=False),
        sa.Column("dimension", sa.String(length=250), nullable=False),
        sa.Column("slice", sa.String(length=250), nullable=False),
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("suite", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("higher_is_better", sa.Boolean(), nullable=True),
        sa.Column("primary", sa.Boolean(), nullable=False),
        sa.Column("partial", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "task", "metric", "filter", "dimension", "slice"),
    )
    with op.batch_alter_table("lmms_scores", schema=None) as batch_op:
        batch_op.create_index("ix_lmms_scores_board", ["experiment_id", "task", "model"], unique=False)

    op.create_table(
        "lmms_evaluation_parts",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("box", sa.String(length=250), nullable=True),
        sa.Column("slot", sa.String(length=250), nullable=True),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.Float(), nullable=True),
        sa.Column("seen_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["lmms_evaluations.run_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "part"),
    )
    op.create_table(
        "lmms_evaluation_tasks",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=250), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("automatic_retries", sa.Integer(), nullable=False),
        sa.Column("failure", sa.String(length=32), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("log_tail", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=True),
        sa.Column("metric", sa.String(length=250), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["lmms_evaluations.run_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "task"),
    )
    with op.batch_alter_table("lmms_evaluation_tasks", schema=None) as batch_op:
        batch_op.create_index("ix_lmms_evaluation_tasks_state", ["state"], unique=False)


def downgrade() -> None:
    """Take this revision back."""
    with op.batch_alter_table("lmms_evaluation_tasks", schema=None) as batch_op:
        batch_op.drop_index("ix_lmms_evaluation_tasks_state")

    op.drop_table("lmms_evaluation_tasks")
    op.drop_table("lmms_evaluation_parts")
    with op.batch_alter_table("lmms_scores", schema=None) as batch_op:
        batch_op.drop_index("ix_lmms_scores_board")

    op.drop_table("lmms_scores")
    op.drop_table("lmms_leader")
    with op.batch_alter_table("lmms_evaluations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_lmms_evaluations_state"))
        batch_op.drop_index(batch_op.f("ix_lmms_evaluations_experiment_id"))
        batch_op.drop_index(batch_op.f("ix_lmms_evaluations_created_at"))

    op.drop_table("lmms_evaluations")
