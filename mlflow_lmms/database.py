"""Opens the database that holds our tables, beside or inside MLflow's own."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from mlflow_lmms.errors import ConfigurationError

_BUSY_TIMEOUT_MS = 30_000
_READING = "lmms_reading"


def database_url(configured: str | None, backend_store_uri: str) -> URL:
    """The URL of our tables: the configured one, else derived from MLflow's backend store.

    PostgreSQL: MLflow's own database. SQLite: our own file beside MLflow's, because a file has one writer at a time.

    Raises:
        ConfigurationError: MLflow keeps its runs in a place that is no database, and no URL was set.
    """
    try:
        url = make_url(configured or backend_store_uri)
    except ArgumentError:
        raise ConfigurationError(
            f"MLflow's backend store {backend_store_uri!r} is no database: start the server with "
            "--backend-store-uri sqlite:///mlflow.db, or set MLFLOW_LMMS_DATABASE_URL"
        ) from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"our tables live in SQLite or PostgreSQL, got {url.render_as_string()}: set MLFLOW_LMMS_DATABASE_URL"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if configured is None and url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        url = url.set(database=url.database.removesuffix(".db") + "-lmms.db")
    return url


def open_database(url: URL | str) -> Engine:
    """Open the database; SQLite in write-ahead mode with foreign keys and a patient lock."""
    engine = create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """The same engine for reads alone: on SQLite they do not wait for whoever writes."""
    return engine.execution_options(**{_READING: True})


def _prepare_sqlite(connection: Any, _record: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection), "the sqlite dialect hands over sqlite3 connections"
    connection.isolation_level = None  # SQLAlchemy's own BEGIN below, so that DDL is part of the transaction
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Any) -> None:
    reads = connection.get_execution_options().get(_READING)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
