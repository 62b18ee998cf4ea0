"""Boards over long histories: 500 models × 50 benchmarks, cold and warm, and after new runs.

Baseline: `search_runs` of MLflow's own client on the same database in the same process, in pages of 1,000. Of long
histories one page is timed and the others are taken to cost as much; the printed table says so. A warm board is the
whole call: it asks the database which columns changed, and gives ranks and intervals of every cell. `cold` has kept
nothing, as after a restart. The refresh of one run goes by the real index, from MLflow's tables to the board's cells.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from mlflow_lmms.board_cells import BoardCells
from mlflow_lmms.board_costs import BoardCosts
from mlflow_lmms.board_narrowing import Narrower
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.board_rows import BoardRows
from mlflow_lmms.board_service import Boards
from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.column_ranks import column_ranks
from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.model_facts import ModelFacts
from mlflow_lmms.run_reader import RunReader, no_such_artifact
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.suite import Suite
from mlflow_lmms.trends import Narrowing, Trends

sys.path.insert(0, str(Path(__file__).parent))  # which `python -P` does not look into
import build_history as made
from postgres_cluster import postgres, programs

_PAGE = 1_000
_FIRST_ROWS = 25
_REINDEXED = 500
_SINGLE = 20
_MANY = 100

Measured = dict[str, float]


class Bench:
    """A history with the services that read it, as a server process has them."""

    def __init__(self, history: made.History) -> None:
        self.history = history
        self.client = MlflowClient(history.uri)
        self.store = EvaluationStore(open_database(database_url(None, history.uri)))
        self.index = ScoreIndex(self.store, RunTables(history.uri), BoardCells())
        self.reader = RunReader(self._file)
        self.boards = self.new_boards()
        self.next_run = history.runs

    def _file(self, run_id: str, path: str) -> Path:
        file = self.history.artifacts / run_id / path
        if not file.exists():
            raise no_such_artifact(run_id, path)
        return file

    def new_boards(self) -> Boards:
        """Boards that have kept nothing."""
        self.reader = RunReader(self._file)
        narrower = Narrower(Catalogue, ModelFacts, no_suite)
        costs = BoardCosts(self.store.engine, self.reader.task_result)
        return Boards(BoardRows(self.store.engine), narrower, self.reader.vector, lambda _: (), costs)

    def board(self) -> Any:
        """The whole board, as a user with every permission asks for it."""
        return self.boards.ranked(BoardQuery(), experiment_ids=[self.history.experiment_id])

    def new_runs(self, count: int) -> list[str]:
        """So many runs that MLflow has and the index has not."""
        numbers = range(self.next_run, self.next_run + count)
        self.next_run += count
        made.add_runs(self.history, numbers)
        for number in numbers:
            for task in made.tasks_of(number):
                if number % made.MODELS < made.WITH_VECTORS[0] and task < made.WITH_VECTORS[1]:
                    made.write_vector(self.history, number, task)
        return [made.run_id_of(number) for number in numbers]


def no_suite(name: str) -> Suite:
    """This server has none."""
    raise NotFoundError(f"no suite {name}")


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def p50(action: Callable[[], object], repeats: int) -> float:
    """Median milliseconds."""
    return statistics.median(timed(action) for _ in range(repeats))


def measure(history: made.History) -> Measured:
    """Everything on one history."""
    bench = Bench(history)
    found: Measured = {"runs": history.runs}
    rows = BoardRows(bench.store.engine)
    places = list(rows.revisions([history.experiment_id]))
    found["read_cells_ms"] = p50(lambda: rows.cells(places), 3)
    found["cold_ms"] = timed(bench.board)
    ranked = bench.board()
    found["cells"] = sum(len(row.cells) for row in ranked.board.rows)
    found["paired_cells"] = sum(
        cell.place is not None and cell.place.paired_with > 0
        for row in ranked.board.rows
        for cell in row.cells.values()
    )
    found["board_p50_ms"] = p50(bench.board, 100)
    found["first_paint_ms"] = p50(lambda: json.dumps(bench.board().as_json(limit=_FIRST_ROWS)), 5)
    found["trend_ms"] = p50(lambda: trend(bench), 10)
    found["search_page_ms"] = timed(lambda: search(bench))
    found |= after_new_runs(bench)
    found |= reindex(bench)
    check_ranks(bench)
    bench.store.engine.dispose()
    return found


def trend(bench: Bench) -> dict[str, Any]:
    """All results of one model on its benchmarks over time, each tested against the one before."""
    trends = Trends(bench.store.engine, bench.reader.vector)
    return trends.trend(made.model_of(3), Narrowing([bench.history.experiment_id]), "time")


def search(bench: Bench) -> int:
    """One page of the baseline."""
    return len(bench.client.search_runs([bench.history.experiment_id], max_results=_PAGE))


def after_new_runs(bench: Bench) -> Measured:
    """Runs arrive: the index follows, and the board is asked for again."""
    singles, boards = [], []
    for run_id in bench.new_runs(_SINGLE):
        singles.append(timed(lambda run_id=run_id: bench.index.refresh_run(run_id)))  # type: ignore[misc]
        boards.append(timed(bench.board))
    many = bench.new_runs(_MANY)
    return {
        "refresh_one_ms": statistics.median(singles),
        "board_after_one_ms": statistics.median(boards),
        "board_after_one_max_ms": max(boards),
        "refresh_100_ms": timed(lambda: bench.index.refresh_runs(many)),
        "board_after_100_ms": timed(bench.board),
    }


def reindex(bench: Bench) -> Measured:
    """The rebuild by the real code, of some runs at the pace of all."""
    some = [made.run_id_of(number) for number in range(min(_REINDEXED, bench.history.runs))]
    start = time.perf_counter()
    for at in range(0, len(some), _MANY):
        bench.index.refresh_runs(some[at : at + _MANY])
    return {"reindex_s": (time.perf_counter() - start) * bench.history.runs / len(some)}


def check_ranks(bench: Bench) -> None:
    """The ranks that were kept from run to run are those of all tests made anew."""
    board = bench.board().board
    for column in board.columns[: made.WITH_VECTORS[1]]:
        cells = {row.model: row.cells[column.task] for row in board.rows if column.task in row.cells}
        anew = column_ranks([cell.score for cell in cells.values()], bench.reader.vector, higher_is_better=True)
        assert {model: cell.place for model, cell in cells.items()} == anew, f"the ranks of {column.task} differ"


def show(database: str, measured: list[Measured]) -> None:
    """The table of all sizes, and the last line of the database."""
    table = Table(title=f"{database}, milliseconds unless said")
    table.add_column("")
    for found in measured:
        table.add_column(f"{found['runs']:,.0f} runs", justify="right")
    for name in measured[0]:
        table.add_row(name, *(f"{found[name]:,.2f}" for found in measured))
    paging = [found["search_page_ms"] * max(1.0, found["runs"] / _PAGE) for found in measured]
    table.add_row(
        f"search_runs, pages of {_PAGE}, s (1 timed, others extrapolated)", *(f"{ms / 1000:,.1f}" for ms in paging)
    )
    table.add_row(
        "search_runs over board", *(f"{ms / f['board_p50_ms']:,.0f}×" for ms, f in zip(paging, measured, strict=True))
    )
    Console(width=140).print(table)
    last, before = measured[-1], measured[-2] if len(measured) > 1 else measured[-1]
    growth = (last["read_cells_ms"] / last["cells"]) / (before["read_cells_ms"] / before["cells"])
    summary = {
        "database": database,
        "runs": int(last["runs"]),
        "board_p50_ms": round(last["board_p50_ms"], 3),
        "over_search_runs": round(paging[-1] / last["board_p50_ms"]),
        f"growth_{last['runs']:.0e}_over_{before['runs']:.0e}".replace("e+0", "e"): round(growth, 2),
        "refresh_one_ms": round(last["refresh_one_ms"], 1),
    }
    print(json.dumps(summary))


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The URI of an empty database."""
    folder.mkdir(parents=True)
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'mlflow.db'}"
    else:
        with postgres(folder / "postgres") as uri:
            yield uri


def main() -> None:
    """Build one history after the other, measure it, and delete it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--folder", type=Path, help="for the histories: 10^5 runs take some 20 GB")
    args = parser.parse_args()
    kinds = args.database or ["sqlite", *(["postgresql"] if programs() else [])]
    for kind in kinds:
        measured = []
        for runs in sorted(args.runs):
            with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
                folder = Path(temporary)
                folder.chmod(0o755)  # PostgreSQL runs as another user where this one is root
                with database(kind, folder / kind) as uri:
                    measured.append(measure(made.build(uri, folder / "artifacts", runs)))
        show(kind, measured)


if __name__ == "__main__":
    main()
