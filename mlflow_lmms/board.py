"""The leaderboard: models × tasks with intervals, ties and an overall score. Pure: scores in, board out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial as bound

from mlflow_lmms.board_choice import latest, newest_reported
from mlflow_lmms.board_column import Cell, Column, RankedColumn, rank_column
from mlflow_lmms.board_overall import NO_OVERALL, Overall, win_rates
from mlflow_lmms.column_tests import pair_tests
from mlflow_lmms.score import REPORTED, Score, Vectors

__all__ = ["Board", "Cell", "Column", "Row", "assemble", "chosen", "make_board"]

#: Which of the results that a model has of a task is shown.
Choose = Callable[[Sequence[Score]], Score]


@dataclass(frozen=True)
class Row:
    """One model. `coverage` is how many of the tasks it has; `rank` its place by the overall score.

    `win_rate` is its mean win rate over its ranked tasks. `overall` is what the board is ordered by, the win rate
    unless it was asked for another. `reported` are scores by task that somebody else published: shown beside ours,
    never ranked or tested.
    """

    model: str
    cells: Mapping[str, Cell]
    win_rate: float | None
    coverage: int
    rank: int | None = None
    reported: Mapping[str, tuple[Score, ...]] = field(default_factory=dict)
    overall: Overall = NO_OVERALL


@dataclass(frozen=True)
class Board:
    """The whole board; rows best first. `left_out` says which results stand nowhere, and why."""

    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    left_out: tuple[str, ...] = field(default=())


def make_board(scores: Iterable[Score], vectors: Vectors, *, partial: bool = False, flagged: bool = False) -> Board:
    """Rank the latest result of each model on each task.

    Args:
        vectors: per-sample scores of a result, None where there are none.
        partial: whether results over a part of a task's documents take part, where a model has no whole one.
        flagged: whether results take part whose warnings speak against it.
    """
    everything = list(scores)
    by_task = chosen(everything, partial=partial)
    columns = [rank_column(found, bound(pair_tests, vectors=vectors), flagged=flagged) for found in by_task.values()]
    reported = [score for score in everything if score.source == REPORTED]
    return assemble(columns, win_rates(columns), reported, left_out=left_out(everything, partial=partial))


def chosen(scores: Iterable[Score], *, partial: bool, choose: Choose = latest) -> dict[str, list[Score]]:
    """By task one result of each model; published ones are none of them."""
    found: dict[str, dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        if score.source != REPORTED and (partial or not score.partial):
            found[score.task][score.model].append(score)
    return {
        task: [some[0] if len(some) == 1 else choose(some) for some in by_model.values()]
        for task, by_model in found.items()
    }


def left_out(scores: Iterable[Score], *, partial: bool) -> tuple[str, ...]:
    """Which of the results have no place on the board, in words."""
    count = 0 if partial else sum(score.partial and score.source != REPORTED for score in scores)
    return (f"{count} result{'s' if count > 1 else ''} over a part of a task's documents",) if count else ()


def assemble(
    columns: Sequence[RankedColumn],
    overall: Mapping[str, Overall],
    reported: Sequence[Score] = (),
    *,
    pinned: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> Board:
    """Put ranked columns beside each other.

    Args:
        overall: of each model that has one; the rows are ordered by it.
        pinned: tasks whose columns come first, in this order.
    """
    rows = _rows(columns, overall, newest_reported(reported))
    shown = {column.column.task: column.column for column in columns}
    for score in sorted(reported, key=lambda score: (score.recorded_at, score.run_id), reverse=True):
        # A task that only published scores speak of: the newest of them.
        shown.setdefault(
            score.task,
            Column(score.task, score.metric, score.filter, score.higher_is_better, score.scale_high),
        )
    first = [shown.pop(task, Column(task, "", "", None)) for task in dict.fromkeys(pinned)]
    return Board((*first, *(shown[task] for task in sorted(shown))), tuple(rows), tuple(left_out))


def _rows(columns: Sequence[RankedColumn], overall: Mapping[str, Overall], reported: Sequence[Score]) -> list[Row]:
    cells: dict[str, dict[str, Cell]] = defaultdict(dict)
    for column in columns:
        task = column.column.task
        for model, cell in column.cells.items():
            cells[model][task] = cell
    beside: dict[str, dict[str, tuple[Score, ...]]] = defaultdict(dict)
    for score in reported:
        beside[score.model][score.task] = (*beside[score.model].get(score.task, ()), score)
    rates = {model: found.value for model, found in win_rates(columns).items()}
    values = {model: found.value for model, found in overall.items() if found.value is not None and model in cells}
    places = _places(values)
    ours = [
        Row(
            model=model,
            cells=found,
            win_rate=rates.get(model),
            coverage=len(found),
            rank=places.get(model),
            reported=beside.get(model, {}),
            overall=overall.get(model, NO_OVERALL),
        )
        for model, found in cells.items()
    ]
    ours.sort(key=lambda row: (row.model not in values, -values.get(row.model, 0.0), row.model))
    others = [Row(model, {}, None, 0, reported=beside[model]) for model in sorted(beside.keys() - cells.keys())]
    return ours + others


def _places(values: Mapping[str, float]) -> dict[str, int]:
    """The place of each by its value, the largest first; equal ones share theirs."""
    first: dict[float, int] = {}
    for place, value in enumerate(sorted(values.values(), reverse=True), start=1):
        first.setdefault(value, place)
    return {model: first[value] for model, value in values.items()}
