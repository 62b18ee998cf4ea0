"""Boards: the best and the latest result of each model on each task, and the tags of runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    _create_cells()
    op.create_table(
        "lmms_board_columns",
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=250), nullable=False),
        sa.Column("revision", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", "task"),
    )
    op.create_table(
        "lmms_run_tags",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=250), nullable=False),
        sa.Column("value", sa.String(length=250), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key"),
    )
    op.create_index("ix_lmms_run_tags_value", "lmms_run_tags", ["key", "value"], unique=False)
    # The choice of a cell reads its whole-task rows: most rows of a model's task are slices.
    op.drop_index("ix_lmms_scores_board", table_name="lmms_scores")
    op.create_index(
        "ix_lmms_scores_board", "lmms_scores", ["experiment_id", "task", "model", "dimension"], unique=False
    )


def _create_cells() -> None:
    op.create_table(
        "lmms_board_cells",
        sa.Column("experiment_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=250), nullable=False),
        sa.Column("model", sa.String(length=500), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("latest", sa.Boolean(), nullable=False),
        sa.Column("best", sa.Boolean(), nullable=False),
        sa.Column("metric", sa.String(length=250), nullable=False),
        sa.Column("filter", sa.String(length=250), nullable=False),
        sa.Column("suite", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("higher_is_better", sa.Boolean(), nullable=True),
        sa.Column("partial", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("reported_source", sa.String(length=500), nullable=True),
        sa.Column("warnings", sa.Text(), nullable=False),
        sa.Column("factor", sa.Float(), nullable=True),
        sa.Column("scale_high", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("experiment_id", "task", "model", "run_id"),
    )


def downgrade() -> None:
    """Undo this revision."""
    op.drop_index("ix_lmms_scores_board", table_name="lmms_scores")
    op.create_index("ix_lmms_scores_board", "lmms_scores", ["experiment_id", "task", "model"], unique=False)
    for table in ("lmms_run_tags", "lmms_board_columns", "lmms_board_cells"):
        op.drop_table(table)
