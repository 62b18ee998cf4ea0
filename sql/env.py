"""Alembic's entry: runs our revisions on the connection that `mlflow_lmms.sql.migration` hands over."""

from __future__ import annotations

from alembic import context

from mlflow_lmms.sql import schema_boards  # noqa: F401 - its tables belong to the metadata
from mlflow_lmms.sql.schema import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
