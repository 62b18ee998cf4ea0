"""The leaderboard: models × tasks with intervals, ties and a mean win rate. Pure: scores in, board out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from mlflow_lmms.column_ranks import Rank, column_ranks
from mlflow_lmms.score import REPORTED, Score, Vectors, flags_of, incomparable


@dataclass(frozen=True)
class Column:
    """One task of the board."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool | None
    scale_high: float | None = None


@dataclass(frozen=True)
class Cell:
    """A score on the board. `place` is None where it is not ranked, and `note` says why.

    `flagged` names the warnings that keep it from being ranked, or would if nobody had asked for it.
    """

    score: Score
    place: Rank | None = None
    note: str | None = None
    flagged: tuple[str, ...] = ()

    @property
    def rank(self) -> int | None:
        """The rank that it shows, None where it is not ranked."""
        return self.place.rank if self.place else None

    @property
    def tied(self) -> bool:
        """Whether it shares its rank."""
        return self.place is not None and self.place.tied


@dataclass(frozen=True)
class Row:
    """One model. `win_rate` is its mean win rate over its ranked tasks, `coverage` how many of the tasks it has.

    `reported` are scores by task that somebody else published: shown beside ours, never ranked or tested.
    """

    model: str
    cells: dict[str, Cell]
    win_rate: float | None
    coverage: int
    rank: int | None = None
    reported: dict[str, tuple[Score, ...]] = field(default_factory=dict)


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
    reported = [score for score in everything if score.source == REPORTED]
    ours = [score for score in everything if score.source != REPORTED]
    taken = [score for score in ours if partial or not score.partial]
    latest: dict[tuple[str, str], Score] = {}
    for score in sorted(taken, key=lambda score: (not score.partial, score.recorded_at)):
        latest[score.task, score.model] = score
    columns: list[Column] = []
    cells: dict[str, dict[str, Cell]] = {}
    for task in sorted({task for task, _ in latest}):
        column, found = _column([score for (name, _), score in latest.items() if name == task], vectors, flagged)
        columns.append(column)
        for model, cell in found.items():
            cells.setdefault(model, {})[task] = cell
    rows = _rows(columns, cells)
    beside = _reported(reported)
    columns += _reported_columns(reported, {column.task for column in columns})
    return Board(tuple(sorted(columns, key=lambda c: c.task)), _with_reported(rows, beside), _left_out(ours, taken))


def _column(scores: Sequence[Score], vectors: Vectors, flagged: bool) -> tuple[Column, dict[str, Cell]]:
    reference = _reference(scores)
    flags = {score.model: flags_of(score) for score in scores}
    notes = {score.model: incomparable(reference, score) for score in scores}
    if notes[reference.model] is not None:
        notes[reference.model] = "it does not tell which documents it is over: nothing can be compared with it"
    ordered_by = [
        score
        for score in scores
        if notes[score.model] is None and score.higher_is_better is not None and (flagged or not flags[score.model])
    ]
    higher_is_better = any(score.higher_is_better for score in ordered_by)
    ranks = column_ranks(ordered_by, vectors, higher_is_better=higher_is_better)
    cells = {
        score.model: Cell(score, ranks.get(score.model), notes[score.model], flags[score.model]) for score in scores
    }
    column = Column(
        reference.task, reference.metric, reference.filter, reference.higher_is_better, reference.scale_high
    )
    return column, cells


def _reference(scores: Sequence[Score]) -> Score:
    """The result that most others are comparable with; of several the newest.

    A sound one is preferred, so that flagged results do not decide what a column is about.
    """
    kinds = {score.run_id: _kind(score) for score in scores}
    examples = {kinds[score.run_id]: score for score in scores}
    counts = Counter(kinds.values())

    @cache
    def company(kind: str) -> int:
        return sum(n for other, n in counts.items() if incomparable(examples[kind], examples[other]) is None)

    return max(scores, key=lambda score: (company(kinds[score.run_id]), not flags_of(score), score.recorded_at))


def _kind(score: Score) -> str:
    return json.dumps([score.metric, score.filter, score.factor, score.fingerprint], sort_keys=True)


def _rows(columns: Sequence[Column], cells: dict[str, dict[str, Cell]]) -> list[Row]:
    rates = _win_rates(columns, cells)
    rows = [Row(model, found, rates.get(model), len(found)) for model, found in cells.items()]
    rows.sort(key=lambda row: (row.win_rate is None, -(row.win_rate or 0.0), row.model))
    places = {row.model: 1 + sum(1 for r in rows if (r.win_rate or 0) > (row.win_rate or 0)) for row in rows}
    return [replace(row, rank=places[row.model] if row.win_rate is not None else None) for row in rows]


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


def _reported(scores: Iterable[Score]) -> dict[str, dict[str, tuple[Score, ...]]]:
    """Published scores by model and task; of one source, task and metric the newest."""
    newest: dict[tuple[str, str, str, str, str], Score] = {}
    for score in sorted(scores, key=lambda score: score.recorded_at):
        newest[score.model, score.task, score.metric, score.filter, score.reported_source or ""] = score
    found: dict[str, dict[str, tuple[Score, ...]]] = defaultdict(dict)
    for (model, task, *_), score in sorted(newest.items()):
        found[model][task] = (*found[model].get(task, ()), score)
    return found


def _reported_columns(scores: Iterable[Score], known: set[str]) -> list[Column]:
    """Columns of tasks that only published scores speak of."""
    found = {
        score.task: Column(score.task, score.metric, score.filter, score.higher_is_better, score.scale_high)
        for score in scores
        if score.task not in known
    }
    return list(found.values())


def _with_reported(rows: Sequence[Row], beside: Mapping[str, dict[str, tuple[Score, ...]]]) -> tuple[Row, ...]:
    ours = {row.model for row in rows}
    others = [Row(model, {}, None, 0, reported=found) for model, found in sorted(beside.items()) if model not in ours]
    return (*(replace(row, reported=beside.get(row.model, {})) for row in rows), *others)


def _left_out(everything: Sequence[Score], taken: Sequence[Score]) -> tuple[str, ...]:
    count = len(everything) - len(taken)
    return (f"{count} result{'s' if count > 1 else ''} over a part of a task's documents",) if count else ()
