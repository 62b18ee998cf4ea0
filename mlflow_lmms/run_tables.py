"""MLflow's own tables of runs, read in bulk: active and deleted runs of every workspace.

MLflow's search takes some ten milliseconds a run and sees neither late metrics nor changed tags nor what is gone.
This file alone knows the shape of those tables; a test compares what it reads with what MLflow's client says.
Nothing is ever written here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Run, RunData, RunInfo
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Select,
    column,
    create_engine,
    func,
    literal_column,
    select,
    table,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mlflow_lmms.errors import ConfigurationError, UnavailableError

#: Tags of ours begin so; a run without any is somebody else's.
OURS = "lmms."
_AT_ONCE = 100
_BUSY_TIMEOUT_S = 30
_INFO = ("run_uuid", "experiment_id", "name", "user_id", "status", "start_time", "end_time", "lifecycle_stage")
_RUNS = table("runs", *map(column, (*_INFO, "artifact_uri")))
_TAGS = table("tags", *map(column, ("run_uuid", "key", "value")))
_PARAMS = table("params", *map(column, ("run_uuid", "key", "value")))
_METRICS = table("latest_metrics", *map(column, ("run_uuid", "key", "value")))
_IS_NAN: ColumnElement[bool] = literal_column("is_nan", Boolean())


class RunTables:
    """Reads the runs of one MLflow database.

    Args:
        backend_store_uri: MLflow's backend store.

    Raises:
        ConfigurationError: MLflow keeps its runs in a place that is no database.
    """

    def __init__(self, backend_store_uri: str) -> None:
        try:
            url = make_url(backend_store_uri)
        except ArgumentError:
            raise ConfigurationError(
                f"expected a database as MLflow's backend store, got {backend_store_uri!r}: boards are made from its "
                "tables; start the server with --backend-store-uri sqlite:///mlflow.db or a PostgreSQL URL"
            ) from None
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "sqlite":
            self._engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _BUSY_TIMEOUT_S})
        else:
            self._engine = create_engine(url, pool_size=2, pool_pre_ping=True)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def read(self, run_ids: Collection[str]) -> dict[str, Run]:
        """Those of the runs that there are, whatever their state, with tags, params and latest metrics."""
        found: dict[str, Run] = {}
        with self._connected() as connection:
            for some in _some(run_ids):
                found |= _read(connection, some)
        return found

    def with_results(self, run_ids: Collection[str]) -> set[str]:
        """Those of the runs that carry a tag of ours; the cheap look at a run of somebody else."""
        query = select(_TAGS.c.run_uuid).distinct().where(_TAGS.c.key.like(f"{OURS}%"))
        with self._connected() as connection:
            return {
                run_id
                for some in _some(run_ids)
                for run_id in connection.scalars(query.where(_TAGS.c.run_uuid.in_(some)))
            }

    def page(self, after: str, limit: int, *, experiment_id: str | None = None) -> list[str]:
        """The next ids after `after`, in the database's order, active and deleted."""
        query = select(_RUNS.c.run_uuid).where(_RUNS.c.run_uuid > after).order_by(_RUNS.c.run_uuid).limit(limit)
        if experiment_id is not None:
            query = query.where(_RUNS.c.experiment_id == int(experiment_id))
        return self._ids(query)

    def ended_since(self, moment: float) -> set[tuple[str, int]]:
        """Runs that ended at `moment` (unix seconds) or later, with their end in milliseconds."""
        query = select(_RUNS.c.run_uuid, _RUNS.c.end_time).where(_RUNS.c.end_time >= int(moment * 1000))
        with self._connected() as connection:
            return {(run_id, ended) for run_id, ended in connection.execute(query)}

    def count(self) -> int:
        """How many runs there are, active and deleted."""
        with self._connected() as connection:
            return int(connection.scalar(select(func.count()).select_from(_RUNS)) or 0)

    def _ids(self, query: Select[Any]) -> list[str]:
        with self._connected() as connection:
            return [str(run_id) for run_id in connection.scalars(query)]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise UnavailableError(f"MLflow's runs cannot be read: {type(error).__name__}: {error}") from None


class _ReadData(RunData):
    """What MLflow's entity offers, without an entity for each of a run's hundreds of values."""

    def __init__(self, metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]) -> None:
        super().__init__()
        self._read = metrics, params, tags

    @property
    def metrics(self) -> dict[str, float]:
        return self._read[0]

    @property
    def params(self) -> dict[str, str]:
        return self._read[1]

    @property
    def tags(self) -> dict[str, str]:
        return self._read[2]


def _read(connection: Connection, run_ids: Collection[str]) -> dict[str, Run]:
    tags = _by_run(connection, select(_TAGS), run_ids)
    params = _by_run(connection, select(_PARAMS), run_ids)
    metrics = _by_run(connection, select(_METRICS).where(~_IS_NAN), run_ids)
    for run_id, undefined in _by_run(connection, select(_METRICS).where(_IS_NAN), run_ids).items():
        metrics[run_id] |= dict.fromkeys(undefined, math.nan)
    found = connection.execute(select(_RUNS).where(_RUNS.c.run_uuid.in_(run_ids)))
    return {
        row.run_uuid: Run(
            RunInfo(
                run_id=row.run_uuid,
                experiment_id=str(row.experiment_id),
                user_id=row.user_id or "",
                status=row.status,
                start_time=row.start_time,
                end_time=row.end_time,
                lifecycle_stage=row.lifecycle_stage,
                artifact_uri=row.artifact_uri,
                run_name=row.name,
            ),
            _ReadData(metrics[row.run_uuid], params[row.run_uuid], tags[row.run_uuid]),
        )
        for row in found
    }


def _by_run(connection: Connection, query: Select[Any], run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of run, key and value, by run."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for run_id, key, value in connection.execute(query.where(query.selected_columns[0].in_(run_ids))):
        found[run_id][key] = value
    return found


def _some(run_ids: Collection[str]) -> Iterator[Sequence[str]]:
    listed = list(run_ids)
    return (listed[start : start + _AT_ONCE] for start in range(0, len(listed), _AT_ONCE))
