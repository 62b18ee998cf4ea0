"""Brings our tables in a database to this version's schema; MLflow's own tables and version stay untouched."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.sql.schema import VERSION_TABLE

#: Any fixed number: holds other processes off while one migrates (PostgreSQL advisory lock).
_LOCK = 4_071_226_014


def migrate(engine: Engine) -> None:
    """Create or upgrade our tables; safe to call from several processes at once.

    Raises:
        ConfigurationError: the database was migrated by a newer version of this package.
    """
    with engine.begin() as connection:
        _hold_others_off(connection)
        _refuse_newer(connection)
        command.upgrade(_config(connection), "head")


def current_revision(engine: Engine) -> str | None:
    """The revision that the database stands at; None when our tables are not there."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def newest_revision() -> str:
    """The revision that this package brings a database to."""
    head = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert head is not None, "the package ships at least one revision"
    return head


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("mlflow_lmms.sql")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _hold_others_off(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _refuse_newer(connection: Connection) -> None:
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            f"the database is at revision {current}, which this mlflow-lmms does not know: "
            "install the version that migrated it, or a newer one"
        )
