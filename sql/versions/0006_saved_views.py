"""Saved boards and comparisons, notes, corrected results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    _create_saved_views()
    _create_notes()
    _create_corrections()


def _create_saved_views() -> None:
    op.create_table(
        "lmms_saved_views",
        sa.Column("view_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("view_id"),
    )
    op.create_index("ix_lmms_saved_views_owner", "lmms_saved_views", ["owner"], unique=False)
    op.create_table(
        "lmms_saved_view_revisions",
        sa.Column("view_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("experiments", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["view_id"], ["lmms_saved_views.view_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("view_id", "revision"),
    )


def _create_notes() -> None:
    op.create_table(
        "lmms_notes",
        sa.Column("note_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=250), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=True),
        sa.Column("document", sa.String(length=128), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("note_id"),
    )
    op.create_index("ix_lmms_notes_run", "lmms_notes", ["run_id", "task"], unique=False)
    op.create_index("ix_lmms_notes_experiment", "lmms_notes", ["experiment_id", "note_id"], unique=False)


def _create_corrections() -> None:
    op.create_table(
        "lmms_corrections",
        sa.Column("correction_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=250), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=250), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("correction_id"),
    )
    op.create_index("ix_lmms_corrections_run", "lmms_corrections", ["run_id", "task"], unique=False)
    op.create_index(
        "ix_lmms_corrections_experiment", "lmms_corrections", ["experiment_id", "correction_id"], unique=False
    )


def downgrade() -> None:
    """Take this revision back."""
    for table in ("lmms_corrections", "lmms_notes", "lmms_saved_view_revisions", "lmms_saved_views"):
        op.drop_table(table)
