"""The fleet: states of boxes, what each attempt used, quotas; how long parts wait and how often tasks were tried."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    _create_boxes_and_quotas()
    _create_part_attempts()
    op.add_column("lmms_evaluation_tasks", sa.Column("retries", sa.Text(), server_default="{}", nullable=False))
    op.create_index("ix_lmms_evaluation_tasks_task", "lmms_evaluation_tasks", ["task", "ended_at"], unique=False)
    op.create_index("ix_lmms_evaluations_model", "lmms_evaluations", ["model"], unique=False)
    parts = "lmms_evaluation_parts"
    op.add_column(parts, sa.Column("queued_at", sa.Float(), nullable=True))
    op.add_column(parts, sa.Column("rescore", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column(parts, sa.Column("out_of_memory", sa.Integer(), server_default="0", nullable=False))


def _create_boxes_and_quotas() -> None:
    op.create_table(
        "lmms_boxes",
        sa.Column("box", sa.String(length=250), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("changed_by", sa.String(length=250), nullable=True),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("box"),
    )
    op.create_table(
        "lmms_quotas",
        sa.Column("user_name", sa.String(length=250), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=True),
        sa.Column("gpu_hours", sa.Float(), nullable=True),
        sa.Column("changed_by", sa.String(length=250), nullable=True),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("user_name"),
    )


def _create_part_attempts() -> None:
    op.create_table(
        "lmms_part_attempts",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("user_name", sa.String(length=250), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("box", sa.String(length=250), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=False),
        sa.Column("queued_at", sa.Float(), nullable=False),
        sa.Column("claimed_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("gpu_seconds", sa.Float(), nullable=True),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("mean_utilisation", sa.Float(), nullable=True),
        sa.Column("energy_j", sa.Float(), nullable=True),
        sa.Column("fetch_s", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "part", "token"),
    )
    with op.batch_alter_table("lmms_part_attempts", schema=None) as batch_op:
        batch_op.create_index("ix_lmms_part_attempts_use", ["ended_at", "user_name"], unique=False)
        batch_op.create_index(batch_op.f("ix_lmms_part_attempts_model"), ["model"], unique=False)


def downgrade() -> None:
    """Take this revision back."""
    op.drop_index("ix_lmms_evaluations_model", "lmms_evaluations")
    op.drop_index("ix_lmms_evaluation_tasks_task", "lmms_evaluation_tasks")
    with op.batch_alter_table("lmms_evaluation_parts", schema=None) as batch_op:
        for column in ("out_of_memory", "rescore", "queued_at"):
            batch_op.drop_column(column)
    with op.batch_alter_table("lmms_evaluation_tasks", schema=None) as batch_op:
        batch_op.drop_column("retries")
    with op.batch_alter_table("lmms_part_attempts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_lmms_part_attempts_model"))
        batch_op.drop_index("ix_lmms_part_attempts_use")
    for table in ("lmms_part_attempts", "lmms_quotas", "lmms_boxes"):
        op.drop_table(table)
