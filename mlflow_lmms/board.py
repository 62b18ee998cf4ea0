"""The leaderboard: models × tasks with intervals, ties and a mean win rate. Pure: scores in, board out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from mlflow_lmms.analysis.paired_difference import PairedDifference, paired_difference
from mlflow_lmms.analysis.tie_groups import tie_groups
from mlflow_lmms.comparability import compare_fingerprints
from mlflow_lmms.reading.result_warnings import WarningName, ranked
from mlflow_lmms.score_vectors import ScoreVector, pair

#: Two results are told apart when the paired test's p-value is below this.
ALPHA = 0.05
#: `Score.source` of numbers that somebody else published.
REPORTED = "reported"


@dataclass(frozen=True)
class Score:
    """The primary metric of one task in one run; `low` and `high` are its 95 % interval where there is one.

    Attributes:
        source: who wrote the run: ``queue``, ``import``, ``client`` or ``reported``.
        reported_source: where a reported score was published.
        warnings: names of what may be wrong with the result (`mlflow_lmms.reading.result_warnings`).
        factor: what turns the mean of the samples' scores into `value`, 1 or 100; None where nothing does.
        scale_high: the largest value there can be, None where that is not known.
    """

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
    source: str = "queue"
    reported_source: str | None = None
    warnings: tuple[str, ...] = ()
    factor: float | None = None
    scale_high: float | None = None


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
    """A score on the board. `rank` is None where it is not ranked, and `note` says why.

    `flagged` names the warnings that keep it from being ranked, or would if nobody had asked for it.
    """

    score: Score
    rank: int | None = None
    tied: bool = False
    note: str | None = None
    flagged: tuple[str, ...] = ()


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


Vectors = Callable[[Score], ScoreVector | None]


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
    ordered = sorted(ordered_by, key=lambda s: (-s.value if higher_is_better else s.value, s.model))
    by_model = {score.model: score for score in scores}

    def differ(first: str, second: str) -> bool:
        return tell_apart(by_model[first], by_model[second], vectors)

    ranks = tie_groups([score.model for score in ordered], differ)
    shared = Counter(ranks.values())
    cells = {
        model: Cell(
            score,
            ranks.get(model),
            shared[ranks[model]] > 1 if model in ranks else False,
            notes[model],
            flags[model],
        )
        for model, score in by_model.items()
    }
    column = Column(
        reference.task, reference.metric, reference.filter, reference.higher_is_better, reference.scale_high
    )
    return column, cells


def flags_of(score: Score) -> tuple[str, ...]:
    """The warnings that speak against ranking the score; that it is partial is asked for by itself."""
    return tuple(name for name in score.warnings if name != WarningName.PARTIAL_RUN and not ranked(name))


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


def incomparable(first: Score, second: Score) -> str | None:
    """Why two results of one task must not be compared, in words; None when they may be."""
    if (first.metric, first.filter) != (second.metric, second.filter):
        return f"scored by {second.metric} ({second.filter}), the others by {first.metric} ({first.filter})"
    if first.factor is not None and second.factor is not None and first.factor != second.factor:
        return f"not comparable: its scores are {_unit(second.factor)}, the others {_unit(first.factor)}"
    found = compare_fingerprints(first.fingerprint, second.fingerprint)
    if found.comparable:
        return None
    words = "not comparable" if found.verdict == "not comparable" else "whether it is comparable cannot be told"
    return f"{words}: {'; '.join(found.reasons)}"


def _unit(factor: float) -> str:
    return "percentages" if factor == 100 else "fractions" if factor == 1 else f"{factor:g} times the samples' scores"


def compare(first: Score, second: Score, vectors: Vectors) -> PairedDifference | None:
    """Paired difference second − first over the documents of both, in the metric's own units.

    None without per-sample scores, and for published scores.
    """
    if REPORTED in (first.source, second.source):
        return None
    one, two = vectors(first), vectors(second)
    if one is None or two is None:
        return None
    return paired_difference(*pair(one, two)).times(first.factor or second.factor or 1.0)


def tell_apart(first: Score, second: Score, vectors: Vectors) -> bool:
    """Whether two results differ: by the paired test, or without samples by intervals that do not meet."""
    difference = compare(first, second, vectors)
    if difference is not None and difference.n:
        return difference.p_value < ALPHA
    if None in (first.low, first.high, second.low, second.high):
        return first.value != second.value
    return bool(first.low > second.high or second.low > first.high)  # type: ignore[operator]


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
