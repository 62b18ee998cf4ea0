"""The kept cells: whatever arrives in whatever order, a board from them is the board of all results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial as bound
from typing import Any

import numpy as np
import pytest
from runner_files import FINGERPRINT
from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session

from mlflow_lmms.board import Board, assemble, chosen
from mlflow_lmms.board_cells import BoardCells, Touched
from mlflow_lmms.board_choice import best, latest
from mlflow_lmms.board_column import rank_column
from mlflow_lmms.board_costs import BoardCosts
from mlflow_lmms.board_narrowing import Narrower
from mlflow_lmms.board_overall import win_rates
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.board_rows import BoardRows
from mlflow_lmms.board_service import Boards
from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.column_tests import pair_tests
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.model_facts import ModelFacts
from mlflow_lmms.score import INVALIDATED, Score
from mlflow_lmms.score_rows import FIELDS
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector
from mlflow_lmms.sql.migration import migrate
from mlflow_lmms.sql.schema import Base, ScoreRow
from mlflow_lmms.sql.schema_boards import BoardCellRow
from mlflow_lmms.task_result import TaskResult

DOCUMENTS = 60
OTHER = {**FINGERPRINT, "lmms_eval": "0.8"}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with our tables."""
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    else:
        where = f"sqlite:///{tmp_path_factory.mktemp('cells')}/lmms.db"
    engine = open_database(where)
    migrate(engine)
    engine.dispose()
    return where


class World:
    """Tables without rows, boards on them, and scores of single documents."""

    def __init__(self, url: str) -> None:
        self.engine = open_database(url)
        self.scores: dict[str, Score] = {}
        self.values: dict[str, list[float]] = {}
        self.facts = ModelFacts()
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
        self.cells = BoardCells()
        self.boards = self.new_boards()

    def new_boards(self) -> Boards:
        """Boards that have kept nothing, as another server process has them."""

        def nothing(_run: str, _task: str) -> TaskResult:
            raise NotFoundError("no result")

        narrower = Narrower(Catalogue, lambda: self.facts, lambda name: pytest.fail(name))
        costs = BoardCosts(self.engine, nothing)
        return Boards(BoardRows(self.engine), narrower, self.vector, lambda _: (), costs)

    def vector(self, score: Score) -> ScoreVector | None:
        values = self.values.get(score.run_id)
        if values is None:
            return None
        keys = DocumentKeys(np.array([b"%03d" % n for n in range(len(values))]), None)
        return ScoreVector(np.array(values), lambda: keys, "documents")

    def put(self, score: Score, values: Sequence[float] | None = None, tags: dict[str, str] | None = None) -> None:
        """A run with one result arrives, or arrives anew."""
        before = self.scores.get(score.run_id)
        self.scores[score.run_id] = score
        if values is not None:
            self.values[score.run_id] = list(values)
        with Session(self.engine) as session, session.begin():
            session.execute(delete(ScoreRow).where(ScoreRow.run_id == score.run_id))
            session.add(row_of(score))
            self.cells.describe(session, score.run_id, tags or {})
            self.cells.follow(session, {place(one) for one in (before, score) if one is not None})

    def remove(self, run_id: str) -> None:
        """A run is deleted."""
        score = self.scores.pop(run_id)
        with Session(self.engine) as session, session.begin():
            session.execute(delete(ScoreRow).where(ScoreRow.run_id == run_id))
            self.cells.describe(session, run_id, {})
            self.cells.follow(session, {place(score)})

    def board(self, experiment_ids: Sequence[str] | None = None, **query: Any) -> Board:
        return self.boards.ranked(BoardQuery.of(query), experiment_ids=experiment_ids).board

    def brute_force(self, scores: Sequence[Score], query: BoardQuery) -> Board:
        """The board of all these results, with every test made anew."""
        choose = best if query.result == "best" else latest
        found = chosen(scores, partial=query.partial, choose=choose)
        tests = bound(pair_tests, vectors=self.vector)
        columns = [rank_column(some, tests, flagged=query.flagged) for some in found.values()]
        return assemble(columns, win_rates(columns), [score for score in scores if score.source == "reported"])


@pytest.fixture
def world(url: str) -> Iterator[World]:
    made = World(url)
    yield made
    made.engine.dispose()


def place(score: Score) -> Touched:
    return Touched(score.experiment_id, score.model, score.task)


def row_of(score: Score) -> ScoreRow:
    fields = {name: getattr(score, name) for name in FIELDS}
    fields["fingerprint"], fields["warnings"] = json.dumps(score.fingerprint), json.dumps(score.warnings)
    return ScoreRow(dimension="", slice="", primary=True, **fields)


def score(run_id: str, model: str = "a", value: float = 0.5, **fields: Any) -> Score:
    made = Score(
        run_id=run_id,
        experiment_id="1",
        model=model,
        suite="s",
        task="t",
        metric="acc",
        filter="none",
        value=value,
        low=None,
        high=None,
        n=100,
        higher_is_better=True,
        partial=False,
        attempt=1,
        fingerprint=FINGERPRINT,
        recorded_at=float(len(run_id)),
    )
    return replace(made, **fields)


def same(one: Board, two: Board) -> None:
    assert one.columns == two.columns
    assert [row.model for row in one.rows] == [row.model for row in two.rows]
    for first, second in zip(one.rows, two.rows, strict=True):
        assert dict(first.cells) == dict(second.cells)
        assert dict(first.reported) == dict(second.reported)
        assert (first.rank, first.win_rate, first.coverage) == (second.rank, second.win_rate, second.coverage)


def any_score(random: np.random.Generator, number: int) -> Score:

    warnings = [(), (), (), (), ("identical_responses",), (INVALIDATED,)][int(random.integers(6))]
    source = ["queue", "import", "queue", "queue", "reported"][int(random.integers(5))]
    return score(
        f"run {number}",
        model=["a v1", "a v2", "b", "c"][int(random.integers(4))],
        value=float(random.integers(0, 20)) / 20,
        experiment_id=["1", "2"][int(random.integers(2))],
        suite=["s", "u"][int(random.integers(2))],
        task=["t", "w"][int(random.integers(2))],
        metric=["acc", "acc", "acc", "f1"][int(random.integers(4))],
        partial=bool(random.random() < 0.2),
        fingerprint=[FINGERPRINT, FINGERPRINT, OTHER][int(random.integers(3))],
        higher_is_better=[True, True, True, None][int(random.integers(4))],
        warnings=warnings,
        source=source,
        reported_source="paper" if source == "reported" else None,
        recorded_at=float(random.integers(0, 1000)) + number / 1000,
    )


@pytest.mark.parametrize("seed", range(4))
def test_boards_follow_whatever_happens_to_runs(world: World, seed: int) -> None:
    random = np.random.default_rng(seed)
    for number in range(60):
        if world.scores and random.random() < 0.25:
            world.remove(list(world.scores)[int(random.integers(len(world.scores)))])
        elif world.scores and random.random() < 0.2:  # a late change of a run that is known
            known = list(world.scores.values())[int(random.integers(len(world.scores)))]
            world.put(replace(any_score(random, number), run_id=known.run_id))
        else:
            right = (random.random(DOCUMENTS) < random.random()).astype(float)
            world.put(any_score(random, number), right.tolist() if random.random() < 0.6 else None)
        if number % 10 == 9:
            for query in (
                BoardQuery(),
                BoardQuery(result="best"),
                BoardQuery(suite="u", partial=True, flagged=True),
                BoardQuery(suite="s", result="best", experiments=("2",)),
            ):
                taken = [
                    score
                    for score in world.scores.values()
                    if query.suite in (None, score.suite)
                    and (not query.experiments or score.experiment_id in query.experiments)
                ]
                found = world.boards.ranked(query, experiment_ids=None).board
                same(found, world.brute_force(taken, query))
                same(world.new_boards().ranked(query, experiment_ids=None).board, found)


def test_what_a_board_does_not_need_is_not_kept(world: World) -> None:
    for number in range(30):
        world.put(score(f"run {number:02}", value=number % 7 / 10, recorded_at=float(number)))
    with Session(world.engine) as session:
        kept = session.scalars(select(BoardCellRow).order_by(BoardCellRow.run_id)).all()
    assert [(row.run_id, row.latest, row.best) for row in kept] == [("run 27", False, True), ("run 29", True, False)]


def test_a_caller_sees_the_experiments_that_it_may_read(world: World) -> None:
    world.put(score("one", "a"))
    world.put(score("two", "b", experiment_id="2"))
    assert [row.model for row in world.board().rows] == ["a", "b"]
    assert [row.model for row in world.board(["2"]).rows] == ["b"]
    assert [row.model for row in world.board(["2"], experiments=["1"]).rows] == []
    assert world.board([]) == Board()


def test_a_new_run_changes_the_ranks_of_its_column_and_no_test_is_made_twice(world: World) -> None:
    right = {"a": 50, "b": 30, "c": 10}
    for model, count in right.items():
        world.put(score(f"run of {model}", model, count / DOCUMENTS), [1.0] * count + [0.0] * (DOCUMENTS - count))
        world.put(
            score(f"run of {model} on w", model, count / DOCUMENTS, task="w"),
            [1.0] * count + [0.0] * (DOCUMENTS - count),
        )
    before = world.board()
    assert [row.cells["t"].rank for row in before.rows] == [1, 2, 3]
    world.put(score("a newer run of c", "c", 1.0, recorded_at=99.0), [1.0] * DOCUMENTS)
    after = world.board()
    assert {row.model: row.cells["t"].rank for row in after.rows} == {"c": 1, "a": 2, "b": 3}
    assert {row.model: row.cells["w"].rank for row in after.rows} == {"c": 3, "a": 1, "b": 2}
    kept = {row.model: row.cells["w"] for row in before.rows}
    assert all(row.cells["w"] is kept[row.model] for row in after.rows), "the other column was made again"
    same(after, world.brute_force(list(world.scores.values()), BoardQuery()))


def test_results_without_single_scores_are_marked_unpaired(world: World) -> None:
    world.put(score("one", "a", 0.9, low=0.8, high=0.95), [1.0] * 54 + [0.0] * 6)
    world.put(score("two", "b", 0.5, low=0.4, high=0.6))
    places = {row.model: row.cells["t"].place for row in world.board().rows}
    assert {model: place and (place.rank, place.paired) for model, place in places.items()} == {
        "a": (1, False),
        "b": (2, False),
    }
    world.put(score("three", "b", 0.5, low=0.4, high=0.6, recorded_at=99.0), [1.0] * 30 + [0.0] * 30)
    ranked = [row.cells["t"].place for row in world.board().rows]
    assert [place is not None and place.paired for place in ranked] == [True, True]


def test_an_unchanged_board_is_asked_of_the_revisions_alone(world: World) -> None:
    world.put(score("one"))
    world.board()
    statements: list[str] = []
    event.listen(world.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    first, second = world.board(), world.board()
    assert first is second
    asked = [statement for statement in statements if statement != "BEGIN"]
    assert len(asked) == 2
    assert all("lmms_board_columns" in statement for statement in asked)


def test_an_invalidated_result_gives_way_to_any_other(world: World) -> None:
    world.put(score("sound", value=0.4, recorded_at=1.0))
    world.put(score("wrong", value=0.9, recorded_at=2.0, warnings=(INVALIDATED,)))
    for result in ("latest", "best"):
        assert world.board(result=result, flagged=True).rows[0].cells["t"].score.run_id == "sound"
    world.remove("sound")
    (row,) = world.board(flagged=True).rows
    assert (row.cells["t"].score.run_id, row.cells["t"].rank) == ("wrong", None)
    assert row.cells["t"].note == "the result was invalidated"


def test_the_best_result_is_made_as_the_latest_one(world: World) -> None:
    world.put(score("easier", value=0.99, recorded_at=1.0, fingerprint=OTHER))
    world.put(score("flagged", value=0.98, recorded_at=2.0, warnings=("identical_responses",)))
    world.put(score("good", value=0.7, recorded_at=3.0))
    world.put(score("latest", value=0.6, recorded_at=4.0))
    assert world.board().rows[0].cells["t"].score.run_id == "latest"
    assert world.board(result="best").rows[0].cells["t"].score.run_id == "good"


def test_no_result_is_the_best_where_the_scoring_changed(world: World) -> None:
    world.put(score("before", value=0.9, recorded_at=1.0))
    world.put(score("after", value=0.6, recorded_at=2.0, warnings=("score_moved",)))
    (row,) = world.board(result="best").rows
    assert (row.cells["t"].score.run_id, row.cells["t"].rank) == ("after", None)
    world.put(score("later", value=0.5, recorded_at=3.0))
    assert world.board(result="best").rows[0].cells["t"].score.run_id == "before"


def test_the_best_is_the_smallest_where_lower_is_better(world: World) -> None:
    world.put(score("small", value=0.1, recorded_at=1.0, higher_is_better=False))
    world.put(score("large", value=0.9, recorded_at=2.0, higher_is_better=False))
    assert world.board(result="best").rows[0].cells["t"].score.run_id == "small"


def test_tags_and_times_choose_among_all_results(world: World) -> None:
    world.put(score("old", value=0.1, recorded_at=10.0), tags={"team": "vision", "mlflow.user": "x"})
    world.put(score("new", value=0.2, recorded_at=20.0), tags={"team": "speech"})

    def shown(**query: Any) -> list[str]:
        return [row.cells["t"].score.run_id for row in world.board(**query).rows]

    assert shown() == ["new"]
    assert shown(tags=["team=vision"]) == ["old"]
    assert shown(tags=["team=vision", "team=speech"]) == []
    assert shown(tags=["mlflow.user=x"]) == []
    assert shown(until=15.0) == ["old"]
    assert shown(since=15.0) == ["new"]
    assert shown(since=15.0, tags=["team=vision"]) == []
    world.put(score("old", value=0.1, recorded_at=10.0), tags={})
    assert shown(tags=["team=vision"]) == []


def test_one_version_of_a_model_may_stand_for_it(world: World) -> None:
    outputs = {"m v1": 50, "m v2": 20, "m v10": 30, "other": 10}
    for model, count in outputs.items():
        world.put(score(model, model, count / DOCUMENTS), [1.0] * count + [0.0] * (DOCUMENTS - count))
    world.facts = ModelFacts(
        {"champion": frozenset({("m", 2)})}, {("m", 1): 7_000_000_000, ("m", 2): 70_000_000_000, ("m", 10): 8 * 10**9}
    )

    def ranks(**query: Any) -> dict[str, int | None]:
        return {row.model: row.cells["t"].rank for row in world.board(**query).rows}

    assert ranks() == {"m v1": 1, "m v10": 2, "m v2": 3, "other": 4}
    assert ranks(versions="latest") == {"m v10": 1, "other": 2}
    assert ranks(versions="best") == {"m v1": 1, "other": 2}
    assert ranks(versions="@champion") == {"m v2": 1}
    assert ranks(versions="@nobody") == {}
    assert ranks(models=["m"]) == {"m v1": 1, "m v10": 2, "m v2": 3}
    assert ranks(min_size=8) == {"m v10": 1, "m v2": 2}
    assert ranks(max_size=8) == {"m v1": 1, "m v10": 2}
    assert world.board(max_size=8).left_out == ("1 model whose size is not known",)
