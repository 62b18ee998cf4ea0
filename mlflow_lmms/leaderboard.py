"""The leaderboard: models × tasks with intervals, ties and a mean win rate. Pure: scores in, board out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_lmms.score_vectors import ScoreVector, pair
from mlflow_lmms.statistics import PairedDifference, paired_difference, tie_groups

#: Two results are told apart when the paired test's p-value is below this.
ALPHA = 0.05

#: Parts of a fingerprint that must agree, and what they are called when they do not.
_MUST_AGREE = {
    "dataset": "the documents differ",
    "task_config": "the task's prompts or settings differ",
    "generation": "the generation settings differ",
    "num_fewshot": "the number of examples in the prompt differs",
    "lmms_eval": "the lmms-eval versions differ",
}


@dataclass(frozen=True)
class Score:
    """The primary metric of one task in one run; `low` and `high` are its 95 % interval where there is one."""

    run_id: str
    experiment_id: str
    model: str
    suite: str
    task: str
    metric: str
    filter: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    higher_is_better: bool | None
    partial: bool
    attempt: int
    fingerprint: dict[str, Any]
    recorded_at: float


@dataclass(frozen=True)
class Column:
    """One task of the board."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class Cell:
    """A score on the board. `rank` is None where it is not ranked, and `note` says why."""

    score: Score
    rank: int | None = None
    tied: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Row:
    """One model. `win_rate` is its mean win rate over its ranked tasks, `coverage` how many of the tasks it has."""

    model: str
    cells: dict[str, Cell]
    win_rate: float | None
    coverage: int
    rank: int | None = None


@dataclass(frozen=True)
class Board:
    """The whole board; rows best first. `left_out` says which results stand nowhere, and why."""

    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    left_out: tuple[str, ...] = field(default=())


Vectors = Callable[[Score], ScoreVector | None]


def make_board(scores: Iterable[Score], vectors: Vectors, *, partial: bool = False) -> Board:
    """Rank the latest result of each model on each task.

    Args:
        vectors: per-sample scores of a result, None where there are none.
        partial: whether results over a part of a task's documents take part, where a model has no whole one.
    """
    everything = list(scores)
    taken = [score for score in everything if partial or not score.partial]
    latest: dict[tuple[str, str], Score] = {}
    for score in sorted(taken, key=lambda score: (not score.partial, score.recorded_at)):
        latest[score.task, score.model] = score
    tasks = list(dict.fromkeys(score.task for score in everything if (score.task, score.model) in latest))
    columns: list[Column] = []
    cells: dict[str, dict[str, Cell]] = {}
    for task in sorted(tasks):
        column, found = _column([score for (name, _), score in latest.items() if name == task], vectors)
        columns.append(column)
        for model, cell in found.items():
            cells.setdefault(model, {})[task] = cell
    return Board(tuple(columns), _rows(columns, cells), tuple(_left_out(everything, taken)))


def _column(scores: Sequence[Score], vectors: Vectors) -> tuple[Column, dict[str, Cell]]:
    reference = _reference(scores)
    notes = {score.model: incomparable(reference, score) for score in scores}
    ranked = [score for score in scores if notes[score.model] is None and score.higher_is_better is not None]
    higher_is_better = any(score.higher_is_better for score in ranked)
    ordered = sorted(ranked, key=lambda s: (-s.value if higher_is_better else s.value, s.model))
    by_model = {score.model: score for score in scores}

    def differ(first: str, second: str) -> bool:
        return tell_apart(by_model[first], by_model[second], vectors)

    ranks = tie_groups([score.model for score in ordered], differ)
    shared = Counter(ranks.values())
    cells = {
        model: Cell(score, ranks.get(model), shared[ranks[model]] > 1 if model in ranks else False, notes[model])
        for model, score in by_model.items()
    }
    return Column(reference.task, reference.metric, reference.filter, reference.higher_is_better), cells


def _reference(scores: Sequence[Score]) -> Score:
    """The result that the others must be comparable with: of the commonest kind, the newest."""
    kinds = Counter(_kind(score) for score in scores)
    return max(scores, key=lambda score: (kinds[_kind(score)], score.recorded_at))


def _kind(score: Score) -> str:
    return json.dumps([score.metric, score.filter, *(score.fingerprint.get(key) for key in _MUST_AGREE)])


def incomparable(first: Score, second: Score) -> str | None:
    """Why two results of one task must not be compared, in words; None when they may be."""
    if (first.metric, first.filter) != (second.metric, second.filter):
        return f"scored by {second.metric} ({second.filter}), the others by {first.metric} ({first.filter})"
    for key, words in _MUST_AGREE.items():
        if first.fingerprint.get(key) != second.fingerprint.get(key):
            return f"not comparable: {words}"
    return None


def compare(first: Score, second: Score, vectors: Vectors) -> PairedDifference | None:
    """Paired difference second − first over the documents of both; None without per-sample scores."""
    one, two = vectors(first), vectors(second)
    if one is None or two is None:
        return None
    return paired_difference(*pair(one, two))


def tell_apart(first: Score, second: Score, vectors: Vectors) -> bool:
    """Whether two results differ: by the paired test, or without samples by intervals that do not meet."""
    difference = compare(first, second, vectors)
    if difference is not None and difference.n:
        return difference.p_value < ALPHA
    if None in (first.low, first.high, second.low, second.high):
        return first.value != second.value
    return bool(first.low > second.high or second.low > first.high)  # type: ignore[operator]


def _rows(columns: Sequence[Column], cells: dict[str, dict[str, Cell]]) -> tuple[Row, ...]:
    rates = _win_rates(columns, cells)
    rows = [Row(model, found, rates.get(model), len(found)) for model, found in cells.items()]
    rows.sort(key=lambda row: (row.win_rate is None, -(row.win_rate or 0.0), row.model))
    places = {row.model: 1 + sum(1 for r in rows if (r.win_rate or 0) > (row.win_rate or 0)) for row in rows}
    return tuple(
        Row(row.model, row.cells, row.win_rate, row.coverage, places[row.model] if row.win_rate is not None else None)
        for row in rows
    )


def _win_rates(columns: Sequence[Column], cells: dict[str, dict[str, Cell]]) -> dict[str, float]:
    """Mean over tasks of the share of other models that a model beats; those it ties with count half."""
    shares: dict[str, list[float]] = {}
    for column in columns:
        ranks = {m: found[column.task].rank for m, found in cells.items() if column.task in found}
        field_ = {model: rank for model, rank in ranks.items() if rank is not None}
        for model, rank in field_.items():
            others = [other for name, other in field_.items() if name != model]
            if others:
                won = sum(1.0 if other > rank else 0.5 if other == rank else 0.0 for other in others)
                shares.setdefault(model, []).append(won / len(others))
    return {model: sum(found) / len(found) for model, found in shares.items()}


def _left_out(everything: Sequence[Score], taken: Sequence[Score]) -> Iterable[str]:
    if len(taken) < len(everything):
        count = len(everything) - len(taken)
        yield f"{count} result{'s' if count > 1 else ''} over a part of a task's documents"
