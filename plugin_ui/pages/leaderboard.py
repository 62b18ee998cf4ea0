"""The page *Leaderboard*: models × tasks, each score with its interval and a way to what the model got wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flask import request, url_for

from mlflow_lmms.board import Board, Cell, Column, Row
from mlflow_lmms.board_costs import Cost
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.column_ranks import Rank
from mlflow_lmms.reading.result_warnings import WarningName
from mlflow_lmms.reading.result_warnings import ranked as is_ranked
from mlflow_lmms.score import Score
from mlflow_lmms.task_result import TaskWarning
from plugin_ui.pages.board_cost import CostCell, cost_cell
from plugin_ui.pages.board_form import BoardForm, board_form
from plugin_ui.pages.evaluation_results import scale_words
from plugin_ui.pages.evaluations import feed_url
from plugin_ui.pages.experiments import ExperimentChoice, experiment_choices
from plugin_ui.pages.frame import render
from plugin_ui.pages.range_bar import RangeBar, Scale
from plugin_ui.pages.result_findings import warning_counts, warning_title
from plugin_ui.permissions import READ, readable_experiments, requires
from plugin_ui.services import services

Warnings = Callable[[Score], tuple[TaskWarning, ...]]

#: Fields of a query that choose among results, and leave no model and no task out.
_LEAVE_NOTHING_OUT = {"pinned", "result", "overall", "partial", "flagged", "costs"}
_OVERALL = "overall"
_OVERALLS = {"win_rate": "mean win rate", "normalised": "mean score", "weighted": "score by the suite's weights"}
_MODEL = "model"


@dataclass(frozen=True)
class Filters:
    """What the board is made of, and how it is sorted; an empty `sort` means the board's own order."""

    query: BoardQuery
    sort: str
    descending: bool

    @property
    def any(self) -> bool:
        """Whether anything is left out by choice."""
        return bool(self.query.model_dump(exclude_defaults=True).keys() - _LEAVE_NOTHING_OUT)


@dataclass(frozen=True)
class Heading:
    """The head of a column; `sorted` is ``ascending`` or ``descending`` where the rows follow it."""

    text: str
    note: str
    sort_url: str
    sorted: str | None


@dataclass(frozen=True)
class Doubt:
    """Something to be known of a score; `url` leads to its evidence. `grave`: it keeps it unranked."""

    text: str
    url: str | None
    detail: str = ""
    grave: bool = True


@dataclass(frozen=True)
class PublishedScore:
    """A score that somebody else reported."""

    value: float
    source: str
    run_url: str


@dataclass(frozen=True)
class ScoreCell:
    """One score with its provenance."""

    task: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    rank: str
    bar: RangeBar
    doubts: list[Doubt]
    wrong_url: str
    run_url: str


@dataclass(frozen=True)
class Overall:
    """The overall score in words."""

    text: str
    note: str


@dataclass(frozen=True)
class BoardRow:
    """One model; `cells` and `reported` follow the headings, None where we have no score of it.

    `cost` is None where costs were not asked for.
    """

    model: str
    rank: str
    overall: Overall | None
    coverage: str
    cells: list[ScoreCell | None]
    reported: list[list[PublishedScore]]
    cost: CostCell | None = None


@dataclass(frozen=True)
class LeaderboardContext:
    """What ``lmms/leaderboard.html`` takes."""

    template: ClassVar[str] = "lmms/leaderboard.html"

    rows: list[BoardRow]
    headings: list[Heading]
    model_heading: Heading
    overall_heading: Heading
    filters: Filters
    form: BoardForm
    suites: list[str]
    experiments: list[ExperimentChoice]
    verdicts: list[str]
    left_out: list[str]
    feed_url: str


@requires(READ)
def show() -> str:
    """The board of what the caller may read: ``?suite= &experiment= …`` (`BoardQuery`), ``&sort= &dir=``."""
    core = services()
    filters = _filters()
    readable = readable_experiments()
    ranked = core.boards.ranked(filters.query, experiment_ids=readable)
    board = ranked.board
    context = LeaderboardContext(
        rows=board_rows(board, filters, ranked.warnings, ranked.costs),
        headings=[_heading(column.task, column.task, _column_note(column), filters) for column in board.columns],
        model_heading=_heading(_MODEL, "Model", "", filters),
        overall_heading=_heading(_OVERALL, "Overall", _OVERALLS[filters.query.overall], filters),
        filters=filters,
        form=board_form(filters.query),
        suites=core.scores.suites(readable),
        experiments=experiment_choices(core.client, readable),
        verdicts=list(ranked.verdicts),
        left_out=list(board.left_out),
        feed_url=feed_url(),
    )
    return render(context)


def _filters() -> Filters:
    get = request.args.get
    return Filters(
        query=BoardQuery.from_arguments(request.args.to_dict(flat=False)),
        sort=get("sort", ""),
        descending=get("dir", "descending") != "ascending",
    )


def board_rows(
    board: Board, filters: Filters, warnings: Warnings, costs: Mapping[str, Cost] | None = None
) -> list[BoardRow]:
    """The rows in the order asked for; a model without the score that is sorted by stands last either way.

    Args:
        warnings: what may be wrong with a score, in words.
    """
    scales = {column.task: _scale(board, column.task) for column in board.columns}
    rows = list(board.rows)
    if filters.sort:
        known = [row for row in rows if _sort_key(row, filters.sort) is not None]
        missing = [row for row in rows if _sort_key(row, filters.sort) is None]
        rows = sorted(known, key=lambda row: _sort_key(row, filters.sort), reverse=filters.descending) + missing  # type: ignore[arg-type,return-value]
    tied = [row.rank for row in rows]
    return [
        BoardRow(
            model=row.model,
            rank="" if row.rank is None else f"{'=' if tied.count(row.rank) > 1 else ''}{row.rank}",
            overall=_overall(row, board),
            coverage=_coverage(board, row),
            cells=[_cell(row.cells.get(column.task), scales[column.task], warnings) for column in board.columns],
            reported=[[_published(score) for score in row.reported.get(c.task, ())] for c in board.columns],
            cost=None if costs is None else cost_cell(costs.get(row.model)),
        )
        for row in rows
    ]


def _coverage(board: Board, row: Row) -> str:
    if not row.cells:
        return "only reported by others"
    unranked = sum(cell.rank is None for cell in row.cells.values())
    return f"{row.coverage} of {len(board.columns)} tasks" + (f", {unranked} not ranked" if unranked else "")


def _overall(row: Row, board: Board) -> Overall | None:
    found = row.overall
    if found.value is None:
        return None if found.note is None else Overall("–", found.note)
    interval = "" if found.low is None or found.high is None else f"{found.low:.0%} to {found.high:.0%} · "
    return Overall(f"{found.value:.0%}", interval + _against(board))


def _against(board: Board) -> str:
    others = sum(row.overall.value is not None for row in board.rows) - 1
    return f"against {others} other{'' if others == 1 else 's'}"


def _sort_key(row: Row, sort: str) -> float | str | None:
    if sort == _MODEL:
        return row.model.lower()
    if sort == _OVERALL:
        return row.overall.value
    cell = row.cells.get(sort)
    return None if cell is None else cell.score.value


def _scale(board: Board, task: str) -> Scale:
    scores = [row.cells[task].score for row in board.rows if task in row.cells]
    return Scale.over(number for score in scores for number in (score.low, score.value, score.high))


def _published(score: Score) -> PublishedScore:
    source = score.reported_source or "source not told"
    return PublishedScore(score.value, source, url_for("lmms.evaluation", run_id=score.run_id))


def _doubts(cell: Cell, warnings: Warnings) -> Iterator[Doubt]:
    if cell.note:
        yield Doubt(cell.note, None)
    evidence = url_for("lmms.evaluation", run_id=cell.score.run_id, _anchor="warnings")
    told = False
    for warning in warnings(cell.score):
        told = told or warning.name == WarningName.PARTIAL_RUN
        text = ", ".join(filter(None, (warning_title(warning.name), warning_counts(warning))))
        yield Doubt(text, evidence, warning.message, grave=not is_ranked(warning.name))
    if cell.score.partial and not told:
        yield Doubt("over a part of the documents", None)


def _ranks(place: Rank | None) -> str:
    """The ranks that a model may have on a task: ``#1``, or ``#1–3`` where the tests cannot tell."""
    if place is None:
        return ""
    return f"#{place.rank}" if place.rank == place.last else f"#{place.rank}–{place.last}"


def _cell(cell: Cell | None, scale: Scale, warnings: Warnings) -> ScoreCell | None:
    if cell is None:
        return None
    score = cell.score
    return ScoreCell(
        task=score.task,
        value=score.value,
        low=score.low,
        high=score.high,
        n=score.n,
        rank=_ranks(cell.place),
        bar=scale.bar(score.value, score.low, score.high),
        doubts=list(_doubts(cell, warnings)),
        wrong_url=url_for("lmms.samples", run_id=score.run_id, task=score.task, wrong=1),
        run_url=url_for("lmms.evaluation", run_id=score.run_id),
    )


def _column_note(column: Column) -> str:
    name = column.metric if column.filter == "none" else f"{column.metric}, {column.filter}"
    direction = {True: "↑ higher is better", False: "↓ lower is better", None: "not ranked"}
    return f"{name} · {scale_words(column.scale_high)} · {direction[column.higher_is_better]}"


def _heading(sort: str, text: str, note: str, filters: Filters) -> Heading:
    current = (filters.sort or _OVERALL) == sort
    descending = not filters.descending if current else sort != _MODEL
    chosen: dict[str, Any] = dict(filters.query.as_arguments())
    url = url_for(
        "lmms.leaderboard",
        **chosen,
        sort=sort,
        dir="descending" if descending else "ascending",
    )
    sorted_by = ("descending" if filters.descending else "ascending") if current else None
    return Heading(text, note, url, sorted_by)
