"""Suites with their revisions; where a score comes from, its scale and its warnings; group definitions of a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "lmms_suites",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("author", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "lmms_suite_revisions",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["lmms_suites.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name", "revision"),
    )
    op.create_table(
        "lmms_indexed_runs",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
    with op.batch_alter_table("lmms_indexed_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lmms_indexed_runs_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_lmms_indexed_runs_experiment_id"), ["experiment_id"], unique=False)
    op.add_column("lmms_evaluations", sa.Column("group_definitions", sa.Text(), server_default="[]", nullable=False))
    op.add_column("lmms_scores", sa.Column("source", sa.String(length=16), server_default="queue", nullable=False))
    op.add_column("lmms_scores", sa.Column("reported_source", sa.String(length=500), nullable=True))
    op.add_column("lmms_scores", sa.Column("warnings", sa.Text(), server_default="[]", nullable=False))
    op.add_column("lmms_scores", sa.Column("factor", sa.Float(), nullable=True))
    op.add_column("lmms_scores", sa.Column("scale_high", sa.Float(), nullable=True))


def downgrade() -> None:
    """Take this revision back."""
    with op.batch_alter_table("lmms_scores", schema=None) as batch_op:
        for column in ("scale_high", "factor", "warnings", "reported_source", "source"):
            batch_op.drop_column(column)
    with op.batch_alter_table("lmms_evaluations", schema=None) as batch_op:
        batch_op.drop_column("group_definitions")
    with op.batch_alter_table("lmms_indexed_runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_lmms_indexed_runs_experiment_id"))
        batch_op.drop_index(batch_op.f("ix_lmms_indexed_runs_created_at"))
    op.drop_table("lmms_indexed_runs")
    op.drop_table("lmms_suite_revisions")
    op.drop_table("lmms_suites")
