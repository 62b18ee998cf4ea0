"""The score index follows MLflow: runs that changed, and how far poll and sweep have come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision. Runs that were indexed before have no digest, so that the first sweep reads them anew."""
    op.create_table(
        "lmms_dirty",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("after", sa.String(length=64), nullable=False),
        sa.Column("noted_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "lmms_walks",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("after", sa.String(length=64), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    runs = "lmms_indexed_runs"
    op.add_column(runs, sa.Column("digest", sa.String(length=32), server_default="", nullable=False))
    op.add_column(runs, sa.Column("suite_revision", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Take this revision back."""
    with op.batch_alter_table("lmms_indexed_runs", schema=None) as batch_op:
        batch_op.drop_column("suite_revision")
        batch_op.drop_column("digest")
    op.drop_table("lmms_walks")
    op.drop_table("lmms_dirty")
