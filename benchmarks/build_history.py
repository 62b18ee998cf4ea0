"""Makes an MLflow history: 500 models, 50 benchmarks, any number of runs of 6 benchmarks with 132 metrics each.

MLflow's own rows are written by bulk SQL, in the shape that our recorder gives them, and so are the rows of the score
index; the board's cells are then chosen by the real code. A sample of runs is indexed again by the real code and
must give the rows that stand there. `metrics`, the history of single metrics, stays empty: neither `search_runs` nor
our index reads it. The latest results of 50 models on 10 benchmarks have their scores of 1,000 documents as Parquet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from mlflow_lmms.board_cells import BoardCells, Touched
from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.names import Artifact, MetricName, Tag
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.score_vectors import score_column
from mlflow_lmms.sql.schema import IndexedRunRow, ScoreRow
from mlflow_lmms.sql.schema_boards import BoardCellRow

sys.path.insert(0, str(Path(__file__).parent))  # which `python -P` does not look into
from postgres_cluster import postgres

MODELS, TASKS, TASKS_OF_RUN, SLICES = 500, 50, 6, 18
WITH_VECTORS = (50, 10)
DOCUMENTS = 1_000
CHECKED = 25
_EXPERIMENT = 1
_START_MS = 1_700_000_000_000
_EVERY_MS = 60_000
_AT_ONCE = 2_000
_Z = 1.959963984540054


@dataclass(frozen=True)
class History:
    """A history that was built: where it is, and how large. `artifacts`: the runs' files by run id."""

    uri: str
    artifacts: Path
    runs: int

    @property
    def experiment_id(self) -> str:
        """The one experiment."""
        return str(_EXPERIMENT)


def run_id_of(number: int) -> str:
    """The id of a run; ascending, so that bulk inserts stay quick."""
    return f"{number:010x}{hashlib.md5(str(number).encode()).hexdigest()[:22]}"


def model_of(number: int) -> str:
    """The label of the run's model."""
    return f"model-{number % MODELS:03} v1"


def tasks_of(number: int) -> list[int]:
    """The benchmarks of a run; after 9 × 500 runs every model has every benchmark."""
    return [(number // MODELS * TASKS_OF_RUN + at) % TASKS for at in range(TASKS_OF_RUN)]


def task_name(task: int) -> str:
    """The name of a benchmark."""
    return f"bench_{task:02}"


def fingerprint_of(task: int) -> dict[str, Any]:
    """What all results of a benchmark are made of."""
    told = {
        part: hashlib.sha256(f"{part} {task}".encode()).hexdigest() for part in ("dataset", "rows", "task_config")
    }
    generation = hashlib.sha256(b"generation").hexdigest()
    return {**told, "generation": generation, "num_fewshot": 0, "filter": "none", "lmms_eval": "0.7.3", "limit": None}


def right_of(number: int) -> NDArray[np.int64]:
    """How many of 1,000 documents a run got right, by its benchmarks."""
    random = np.random.default_rng([7, number])
    ability = 0.35 + 0.4 * ((number % MODELS) * 7919 % MODELS) / MODELS
    easy = np.array([((task * 31) % TASKS) / TASKS for task in tasks_of(number)])
    chance = np.clip(ability + 0.15 * (easy - 0.5) + random.normal(0, 0.01, TASKS_OF_RUN), 0.02, 0.98)
    return np.rint(chance * DOCUMENTS).astype(np.int64)


@cache
def told_of(task: int) -> str:
    """The fingerprint as the tag has it."""
    return json.dumps(fingerprint_of(task))


@cache
def metric_names(task: int) -> tuple[str, ...]:
    """The score, its statistics and its slices."""
    name = MetricName(task_name(task), "acc")
    slices = [MetricName(name.task, "acc", "none", "subject", f"s{at:02}") for at in range(SLICES)]
    return tuple(map(str, (name, *map(name.of, ("n", "ci_low", "ci_high")), *slices)))


@dataclass(frozen=True)
class MadeRun:
    """One run in plain values: metrics by name, tags, and the rows that our index makes of it."""

    number: int
    metrics: dict[str, float]
    tags: dict[str, str]
    scores: list[dict[str, Any]]


def make_run(number: int) -> MadeRun:
    """One run."""
    metrics: dict[str, float] = {}
    scores: list[dict[str, Any]] = []
    random = np.random.default_rng([11, number])
    recorded_at = (_START_MS + number * _EVERY_MS) / 1000 + 30
    tags = _tags(number)
    of_run = _of_run(number)
    for task, right in zip(tasks_of(number), right_of(number).tolist(), strict=True):
        names, (low, high), value = metric_names(task), _wilson(right), right / DOCUMENTS
        slices = np.round(value + random.normal(0, 0.05, SLICES), 4).tolist()
        metrics |= zip(names, (value, float(DOCUMENTS), low, high, *slices), strict=True)
        primary = {"metric": "acc", "filter": "none", "higher_is_better": True, "partial": False}
        primary |= {"recorded_at": recorded_at, "factor": 1.0, "scale": {"high": 1.0}, "warnings": []}
        tags |= {Tag.primary(task_name(task)): json.dumps(primary), Tag.fingerprint(task_name(task)): told_of(task)}
        shared = of_run | {"task": task_name(task), "fingerprint": told_of(task), "recorded_at": recorded_at}
        whole = {"value": value, "low": low, "high": high, "n": DOCUMENTS, "dimension": "", "slice": ""}
        scores.append(shared | whole)
        part = shared | {"low": None, "high": None, "n": None, "dimension": "subject"}
        scores += [part | {"value": score, "slice": f"s{at:02}"} for at, score in enumerate(slices)]
    return MadeRun(number, metrics, tags, scores)


def _tags(number: int) -> dict[str, str]:
    return {
        Tag.STATE: "finished",
        Tag.SOURCE: "queue",
        Tag.MODEL: model_of(number).removesuffix(" v1"),
        Tag.MODEL_VERSION: "1",
        Tag.SUITE: _suite(number),
        Tag.TASKS: ",".join(map(task_name, tasks_of(number))),
        "mlflow.runName": model_of(number),
        "mlflow.user": "bench",
        "team": f"team-{number % 7}",
    }


def _suite(number: int) -> str:
    return f"suite-{number // MODELS % 25}"


def _of_run(number: int) -> dict[str, Any]:
    return {
        "run_id": run_id_of(number), "metric": "acc", "filter": "none", "experiment_id": str(_EXPERIMENT),
        "model": model_of(number), "suite": _suite(number), "higher_is_better": True, "primary": True,
        "partial": False, "attempt": 1, "source": "queue", "reported_source": None, "warnings": "[]",
        "factor": 1.0, "scale_high": 1.0,
    }  # fmt: skip


@cache
def _wilson(right: int) -> tuple[float, float]:
    share = right / DOCUMENTS
    middle = (share + _Z**2 / (2 * DOCUMENTS)) / (1 + _Z**2 / DOCUMENTS)
    half = _Z / (1 + _Z**2 / DOCUMENTS) * (share * (1 - share) / DOCUMENTS + _Z**2 / (4 * DOCUMENTS**2)) ** 0.5
    return middle - half, middle + half


def build(uri: str, artifacts: Path, runs: int) -> History:
    """Fill an empty database with so many runs, index them, and write the score vectors."""
    client = MlflowClient(uri)
    while client.get_experiment_by_name("history") is None:
        client.create_experiment("history", artifact_location=str(artifacts))
    assert client.get_experiment(str(_EXPERIMENT)).name == "history", "expected an empty database"
    EvaluationStore(open_database(database_url(None, uri))).migrate()
    history = History(uri, artifacts, runs)
    add_indexed_runs(history, range(runs))
    write_vectors(history)
    check(history)
    return history


def add_runs(history: History, numbers: Sequence[int]) -> None:
    """Write runs into MLflow's tables alone."""
    with Bulk(history.uri) as bulk:
        for some in _some(numbers):
            _write_runs(history, bulk, [make_run(number) for number in some])


def add_indexed_runs(history: History, numbers: Sequence[int]) -> None:
    """Write runs and the rows that the index makes of them, and let the real code choose the boards' cells."""
    url = database_url(None, history.uri)
    with Bulk(history.uri) as bulk, Bulk(url.render_as_string(hide_password=False)) as ours:
        for some in _some(numbers):
            made = [make_run(number) for number in some]
            _write_runs(history, bulk, made)
            _write_scores(ours, made)
    touched = {
        Touched(history.experiment_id, model_of(number), task_name(task))
        for number in numbers
        for task in tasks_of(number)
    }
    engine = open_database(url)
    with Session(engine) as session, session.begin():
        BoardCells().follow(session, touched)
    engine.dispose()


def _write_runs(history: History, bulk: Bulk, made: Sequence[MadeRun]) -> None:
    bulk.write("runs", _RUN_COLUMNS, (_run_row(history, run.number) for run in made))
    bulk.write("tags", ("key", "value", "run_uuid"), _items(made, "tags"))
    params = ((f"param_{at:02}", f"value {at}", run_id_of(run.number)) for run in made for at in range(20))
    bulk.write("params", ("key", "value", "run_uuid"), params)
    metrics = ((key, value, _START_MS, 1, False, run_id) for key, value, run_id in _items(made, "metrics"))
    bulk.write("latest_metrics", ("key", "value", "timestamp", "step", "is_nan", "run_uuid"), metrics)


def _write_scores(bulk: Bulk, made: Sequence[MadeRun]) -> None:
    columns = tuple(column.name for column in ScoreRow.__table__.columns)
    pick = itemgetter(*columns)
    bulk.write("lmms_scores", columns, (pick(row) for run in made for row in run.scores))
    known = ("run_id", "experiment_id", "model", "source", "created_at", "digest")
    bulk.write("lmms_indexed_runs", known, (_indexed(run.number) for run in made))
    bulk.write("lmms_run_tags", ("run_id", "key", "value"), _user_tags(made))


def write_vectors(history: History) -> None:
    """Write the scores of single documents of the latest results of some models on some benchmarks."""
    latest = {
        (n % MODELS, task): n for n in range(history.runs) if n % MODELS < WITH_VECTORS[0] for task in tasks_of(n)
    }
    for (_, task), number in latest.items():
        if task < WITH_VECTORS[1]:
            write_vector(history, number, task)


@cache
def document_keys(task: int) -> list[str]:
    """What tells a benchmark's documents apart, sorted."""
    return sorted(hashlib.sha256(f"{task} {document}".encode()).hexdigest() for document in range(DOCUMENTS))


def write_vector(history: History, number: int, task: int) -> None:
    """One result's scores: what is easy is easy for all models, by and large."""
    right = int(right_of(number)[tasks_of(number).index(task)])
    easy = np.random.default_rng([13, task]).normal(size=DOCUMENTS)
    own = np.random.default_rng([17, number, task]).normal(size=DOCUMENTS)
    values = np.zeros(DOCUMENTS)
    values[np.argsort(-(easy + 0.7 * own))[:right]] = 1.0
    file = history.artifacts / run_id_of(number) / Artifact.scores(task_name(task))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"doc_hash": document_keys(task), score_column("acc", "none"): values}), file)


def check(history: History) -> None:
    """Index a sample of the runs anew by the real code; the index must hold the same before and after."""
    store = EvaluationStore(open_database(database_url(None, history.uri)))
    index = ScoreIndex(store, RunTables(history.uri), BoardCells())
    numbers = np.random.default_rng(1).choice(history.runs, min(CHECKED, history.runs), replace=False)
    run_ids = [run_id_of(int(number)) for number in numbers]
    before = _held(store, run_ids)
    index.refresh_runs(run_ids)
    assert before == _held(store, run_ids), "the bulk path does not write what the index does"
    store.engine.dispose()


def _held(store: EvaluationStore, run_ids: Sequence[str]) -> list[list[dict[str, Any]]]:
    found = []
    with store.session() as session:
        for table in (ScoreRow, BoardCellRow, IndexedRunRow):
            rows = session.scalars(select(table).where(table.run_id.in_(run_ids)))
            plain = [
                {c.name: getattr(row, c.name) for c in table.__table__.columns if c.name != "digest"} for row in rows
            ]
            found.append(sorted(plain, key=str))
    return found


def forget_scores(history: History) -> None:
    """Empty the index, as a rebuild would find it at the worst."""
    engine = open_database(database_url(None, history.uri))
    with engine.begin() as connection:
        for table in (ScoreRow, BoardCellRow, IndexedRunRow):
            connection.execute(delete(table))
    engine.dispose()


_RUN_COLUMNS = (
    "run_uuid", "name", "source_type", "user_id", "status", "start_time", "end_time", "lifecycle_stage",
    "artifact_uri", "experiment_id",
)  # fmt: skip


def _run_row(history: History, number: int) -> tuple[Any, ...]:
    start, run_id = _START_MS + number * _EVERY_MS, run_id_of(number)
    uri = str(history.artifacts / run_id)[:200]
    return run_id, model_of(number), "LOCAL", "bench", "FINISHED", start, start + 30_000, "active", uri, _EXPERIMENT


def _indexed(number: int) -> tuple[Any, ...]:
    created = (_START_MS + number * _EVERY_MS) / 1000
    return run_id_of(number), str(_EXPERIMENT), model_of(number), "queue", created, ""


def _items(made: Iterable[MadeRun], what: str) -> Iterator[tuple[str, Any, str]]:
    return ((key, value, run_id_of(run.number)) for run in made for key, value in getattr(run, what).items())


def _user_tags(made: Iterable[MadeRun]) -> Iterator[tuple[str, str, str]]:
    return ((run_id_of(run.number), "team", run.tags["team"]) for run in made)


def _some(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))


class Bulk:
    """Writes very many rows: COPY on PostgreSQL, one prepared statement in one transaction on SQLite."""

    def __init__(self, uri: str) -> None:
        url = make_url(uri)
        self._sqlite = sqlite3.connect(str(url.database)) if url.get_backend_name() == "sqlite" else None
        self._postgres = None
        if self._sqlite is None:
            self._postgres = psycopg.connect(host=url.query["host"], user=url.username, dbname=url.database)  # type: ignore[arg-type]
        else:
            for pragma in ("synchronous=OFF", "cache_size=-1000000"):
                self._sqlite.execute(f"PRAGMA {pragma}")

    def write(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table."""
        names = ", ".join(f'"{name}"' for name in columns)
        if self._sqlite is not None:
            self._sqlite.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})", rows)
        elif self._postgres is not None:
            with self._postgres.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)

    def __enter__(self) -> Bulk:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sqlite is not None:
            self._sqlite.commit()
            self._sqlite.execute("ANALYZE")
            self._sqlite.close()
        elif self._postgres is not None:
            self._postgres.commit()
            self._postgres.autocommit = True
            self._postgres.execute("ANALYZE")
            self._postgres.close()


def main() -> None:
    """Build one history and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="where it is to be kept; default: a temporary folder")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        if args.database == "sqlite":
            history = build(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", args.runs)
        else:
            with postgres(folder / "postgres") as uri:
                history = build(uri, folder / "artifacts", args.runs)
        seconds = time.perf_counter() - start
        print(json.dumps({"runs": history.runs, "database": args.database, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
