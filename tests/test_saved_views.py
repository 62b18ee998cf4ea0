"""Saved boards and comparisons, on SQLite and PostgreSQL: revisions are only added, and who may not see stays out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotAllowedError, NotFoundError
from mlflow_lmms.notes import Notes, NotesAsked
from mlflow_lmms.saved_view import SavedBoard, SavedComparison, View, ViewRevision, parse_view, view_json
from mlflow_lmms.saved_view_store import SavedViewStore
from mlflow_lmms.sql.migration import migrate


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with our tables."""
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    else:
        where = f"sqlite:///{tmp_path_factory.mktemp('views')}/lmms.db"
    opened = open_database(where)
    migrate(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> SavedViewStore:
    """A store without views."""
    with engine.begin() as connection:
        for table in ("lmms_saved_view_revisions", "lmms_saved_views", "lmms_notes"):
            connection.execute(text(f"DELETE FROM {table}"))
    return SavedViewStore(engine, clock=lambda: 1000.0)


def board(name: str = "b", **more: Any) -> View:
    return parse_view({"kind": "board", "name": name, **more})


def comparison(*runs: str, **more: Any) -> View:
    return parse_view({"kind": "comparison", "name": "c", "runs": runs or ("r1", "r2"), **more})


def change(
    store: SavedViewStore,
    made: ViewRevision,
    view: View,
    *,
    by: str | None = "ann",
    admin: bool = False,
    experiments: Collection[str] = (),
    readable: Collection[str] | None = None,
    base: int | None = None,
) -> tuple[int, bool]:
    revision, changed = store.change(
        made.id, view, experiments, by=by, is_admin=admin, readable=readable, note="why", base=base
    )
    return revision.revision, changed


def test_a_view_keeps_every_revision_with_who_when_and_why(store: SavedViewStore) -> None:
    made = store.add(board(query={"suite": "s"}), [], by="ann", note="first")
    assert change(store, made, board("better", query={"suite": "s"}), by="root", admin=True) == (2, True)
    assert [(r.revision, r.created_by, r.created_at, r.note, r.view.name) for r in store.history(made.id, None)] == [
        (2, "root", 1000.0, "why", "better"),
        (1, "ann", 1000.0, "first", "b"),
    ]
    first = store.get(made.id, None, 1).view
    assert isinstance(first, SavedBoard) and first.query == BoardQuery(suite="s")
    assert store.get(made.id, None).owner == "ann"
    assert change(store, made, board("better", query={"suite": "s"})) == (2, False)


def test_only_its_owner_and_an_administrator_may_change_it(store: SavedViewStore) -> None:
    made = store.add(board(), [], by="ann")
    with pytest.raises(NotAllowedError, match="ann's"):
        change(store, made, board("x"), by="ben")
    with pytest.raises(NotAllowedError):
        change(store, made, board("x"), by=None)
    assert change(store, made, board("x"), by="root", admin=True) == (2, True)


def test_a_change_of_an_older_revision_or_into_the_other_kind_is_refused(store: SavedViewStore) -> None:
    made = store.add(board(), [], by="ann")
    change(store, made, board("x"), base=1)
    with pytest.raises(ConflictError, match="at revision 2, the change was made from 1"):
        change(store, made, board("y"), base=1)
    with pytest.raises(InvalidRequestError, match="cannot become a comparison"):
        change(store, made, comparison())


def test_whoever_may_not_read_all_experiments_is_told_that_there_is_no_such_view(store: SavedViewStore) -> None:
    made = store.add(comparison(shared=True), ["1", "2"], by="ann")
    for readable in ((), ("1",), ("2", "3")):
        assert store.heads(readable, by="ann") == []
        for ask in (store.get, store.history):
            with pytest.raises(NotFoundError, match="does not exist, or you may not see it"):
                ask(made.id, readable)
        with pytest.raises(NotFoundError):
            change(store, made, comparison("r3", "r4"), readable=readable, admin=True)
    assert [r.id for r in store.heads(("1", "2", "3"), by="ben")] == [made.id]
    assert store.get(made.id, None) == store.get(made.id, ("2", "1")) == made


@pytest.mark.parametrize("view_id", ["0" * 32, "a\x00b", "", "\ud800", "x" * 10_000, "%"])
def test_a_view_that_is_not_there_is_told_whatever_it_is_called(store: SavedViewStore, view_id: str) -> None:
    for ask in (store.get, store.history):
        with pytest.raises(NotFoundError, match="does not exist"):
            ask(view_id, None)


def test_an_older_revision_over_hidden_runs_is_in_no_history(store: SavedViewStore) -> None:
    made = store.add(comparison(), ["secret"], by="ann")
    change(store, made, comparison("r3", "r4"), experiments=["1"])
    assert [r.revision for r in store.history(made.id, ("1",))] == [2]
    with pytest.raises(NotFoundError, match="no revision 1, or you may not see it"):
        store.get(made.id, ("1",), 1)
    with pytest.raises(NotFoundError, match="no revision 9"):
        store.get(made.id, None, 9)


def test_the_list_shows_ones_own_and_what_is_shared_and_not_what_is_archived(store: SavedViewStore) -> None:
    store.add(board("own"), [], by="ann")
    store.add(board("Open", shared=True), [], by="ben")
    store.add(board("theirs"), [], by="ben")
    old = store.add(comparison(), [], by="ann")
    change(store, old, comparison(archived=True))
    assert [r.view.name for r in store.heads(None, by="ann")] == ["Open", "own"]
    assert [r.id for r in store.heads(None, by="ann", archived=True)] == [old.id]
    assert store.heads(None, by="ann", kind="comparison") == []
    assert [r.view.name for r in store.heads(None, by="cleo")] == ["Open"]


def test_of_changes_at_once_each_is_a_revision_of_its_own_or_refused(store: SavedViewStore) -> None:
    made = store.add(board(), [], by="ann")

    def attempt(number: int) -> bool:
        try:
            return change(store, made, board(f"n{number}"))[1]
        except ConflictError:
            return False

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(attempt, range(8)))
    assert done >= 1
    assert [r.revision for r in store.history(made.id, None)] == list(range(done + 1, 0, -1))


def test_what_is_saved_is_read_back_as_it_was(store: SavedViewStore) -> None:
    views = [
        board(
            "名前", notes="a\nb\u2028c", query={"suite": "s", "tasks": ["t"], "versions": "@champion", "since": 1.5}
        ),
        comparison("a", "b", "c", baseline="b", tasks=["t"], filters={"verdicts": ["better"], "search": "x y"}),
    ]
    for view in views:
        assert store.get(store.add(view, [], by=None).id, None).view == view
        assert parse_view(json.loads(json.dumps(view_json(view)))) == view


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (3, "expected an object"),
        ({}, "kind"),
        ({"kind": "page", "name": "x"}, "kind"),
        ({"kind": "board"}, "name"),
        ({"kind": "board", "name": " "}, "name"),
        ({"kind": "board", "name": "\x01"}, "name"),
        ({"kind": "board", "name": "a\nb"}, "name"),
        ({"kind": "board", "name": "x" * 201}, "name"),
        ({"kind": "board", "name": "\ud800"}, "name"),
        ({"kind": "board", "name": "x", "notes": "\x00"}, "notes"),
        ({"kind": "board", "name": "x", "notes": "n" * 20_001}, "notes"),
        ({"kind": "board", "name": "x", "owner": "me"}, "owner"),
        ({"kind": "board", "name": "x", "query": {"where": "1=1"}}, "where"),
        ({"kind": "board", "name": "x", "query": {"since": float("nan")}}, "since"),
        ({"kind": "comparison", "name": "x", "runs": ["a"]}, "runs"),
        ({"kind": "comparison", "name": "x", "runs": ["a", "a"]}, "each run once"),
        ({"kind": "comparison", "name": "x", "runs": ["a", "b' OR 1=1"]}, "runs.1"),
        ({"kind": "comparison", "name": "x", "runs": [f"r{n}" for n in range(51)]}, "runs"),
        ({"kind": "comparison", "name": "x", "runs": ["a", "b"], "baseline": "c"}, "baseline"),
        ({"kind": "comparison", "name": "x", "runs": ["a", "b"], "filters": {"verdicts": ["good"]}}, "verdicts"),
    ],
)
def test_what_is_not_sound_is_refused_with_its_field(content: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        parse_view(content)


def test_the_baseline_stands_first() -> None:
    view = comparison("a", "b", "c", baseline="b")
    assert isinstance(view, SavedComparison) and view.ordered == ("b", "a", "c")
    assert isinstance(plain := comparison("a", "b"), SavedComparison) and plain.ordered == ("a", "b")


def test_notes_are_listed_newest_first_and_only_of_readable_experiments(
    store: SavedViewStore, engine: Engine
) -> None:
    notes = Notes(engine, clock=lambda: 5.0)
    made = [
        notes.add("1", "r1", "whole run", by="ann"),
        notes.add("1", "r1", "a result 🧪", by=None, task="t"),
        notes.add("1", "r1", "a sample", by="ben", task="t", sample=3, document="d" * 64),
        notes.add("2", "r2", "hidden", by="ann", task="t"),
    ]
    assert notes.search(NotesAsked(None)) == made[::-1]
    assert notes.search(NotesAsked({"1"})) == made[2::-1]
    assert notes.search(NotesAsked(())) == [] and notes.count(NotesAsked(())) == 0
    assert notes.count(NotesAsked({"1"})) == 3
    assert notes.search(NotesAsked({"1"}, ["r1", "r2"], "t")) == [made[2], made[1]]
    assert notes.search(NotesAsked(None, task="")) == [made[0]]
    assert notes.search(NotesAsked(None, sample=3)) == [made[2]]
    assert notes.search(NotesAsked({"1"}), before=made[2].id, limit=1) == [made[1]]
    assert len(notes.search(NotesAsked(None, sample=None), before=2**31 - 1)) == 4
    assert made[0].task is None and made[2].as_json()["document"] == "d" * 64
