"""Suites as tables, on SQLite and PostgreSQL: revisions are only added, and only by who may."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mlflow_lmms.database import open_database
from mlflow_lmms.errors import ConflictError, NotAllowedError, NotFoundError
from mlflow_lmms.sql.migration import migrate
from mlflow_lmms.suite import Suite
from mlflow_lmms.suite_store import SuiteStore


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with our tables."""
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    else:
        where = f"sqlite:///{tmp_path_factory.mktemp('suites')}/lmms.db"
    opened = open_database(where)
    migrate(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> SuiteStore:
    """A store without suites."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM lmms_suite_revisions"))
        connection.execute(text("DELETE FROM lmms_suites"))
    return SuiteStore(engine, clock=lambda: 1000.0)


def suite(*tasks: str, name: str = "vision") -> Suite:
    return Suite.parse({"name": name, "tasks": list(tasks)})


def put(store: SuiteStore, *tasks: str, by: str | None = "ann", admin: bool = False, **more: int) -> tuple[int, bool]:
    revision, made = store.put(
        suite(*tasks), by=by, is_admin=admin, note=f"{len(tasks)} tasks", base=more.get("base")
    )
    return revision.revision, made


def test_a_suite_keeps_every_revision_with_who_when_and_why(store: SuiteStore) -> None:
    assert put(store, "ai2d") == (1, True)
    assert put(store, "ai2d", "mme", by="root", admin=True) == (2, True)
    assert [(r.revision, r.created_by, r.created_at, r.note) for r in store.history("vision")] == [
        (2, "root", 1000.0, "2 tasks"),
        (1, "ann", 1000.0, "1 tasks"),
    ]
    assert [entry.task for entry in store.get("vision").suite.tasks] == ["ai2d", "mme"]
    assert store.get("vision", 1).suite == suite("ai2d")
    assert store.author("vision") == "ann"


def test_the_same_content_adds_no_revision(store: SuiteStore) -> None:
    put(store, "ai2d")
    assert put(store, "ai2d") == (1, False)


def test_only_its_author_and_an_administrator_may_change_it(store: SuiteStore) -> None:
    put(store, "ai2d")
    with pytest.raises(NotAllowedError, match="ann's"):
        put(store, "mme", by="ben")
    assert put(store, "mme", by="ann") == (2, True)
    assert put(store, "ai2d", by="root", admin=True) == (3, True)


def test_where_nobody_signs_in_everybody_may(store: SuiteStore) -> None:
    assert put(store, "ai2d", by=None, admin=True) == (1, True)
    assert put(store, "mme", by=None, admin=True) == (2, True)


def test_a_change_of_an_older_revision_is_refused(store: SuiteStore) -> None:
    put(store, "ai2d")
    put(store, "mme", base=1)
    with pytest.raises(ConflictError, match="at revision 2, the change was made from 1"):
        put(store, "vqav2", base=1)


def test_what_is_not_there_is_named(store: SuiteStore) -> None:
    assert store.find("vision") is None
    for ask in (store.get, store.history, store.author):
        with pytest.raises(NotFoundError, match="no suite 'vision'"):
            ask("vision")
    put(store, "ai2d")
    with pytest.raises(NotFoundError, match="no revision 7; its newest is 1"):
        store.find("vision", 7)


def test_the_list_shows_the_newest_of_each_by_name(store: SuiteStore) -> None:
    put(store, "ai2d")
    put(store, "mme")
    store.put(suite("mme", name="audio"), by="ben", is_admin=False)
    assert [(head.newest.name, head.newest.revision, head.author) for head in store.heads()] == [
        ("audio", 1, "ben"),
        ("vision", 2, "ann"),
    ]


def test_of_changes_at_once_each_is_a_revision_of_its_own_or_refused(store: SuiteStore) -> None:
    put(store, "ai2d")

    def change(number: int) -> bool:
        try:
            return put(store, f"task{number}")[1]
        except ConflictError:
            return False

    with ThreadPoolExecutor(4) as pool:
        made = sum(pool.map(change, range(8)))
    assert [r.revision for r in store.history("vision")] == list(range(made + 1, 0, -1))


def test_of_suites_of_one_name_made_at_once_one_is_first(store: SuiteStore) -> None:
    def make(number: int) -> bool:
        try:
            return store.put(suite(f"task{number}"), by="ann", is_admin=False)[1]
        except ConflictError:
            return False

    with ThreadPoolExecutor(4) as pool:
        made = sum(pool.map(make, range(4)))
    assert made >= 1 and store.get("vision").revision == made


def test_an_older_database_gets_the_tables_and_keeps_its_rows(tmp_path: Path) -> None:
    from alembic import command

    from mlflow_lmms.sql.migration import _config

    old = open_database(f"sqlite:///{tmp_path}/old.db")
    with old.begin() as connection:
        command.upgrade(_config(connection), "0001")
        connection.execute(
            text(
                "INSERT INTO lmms_scores (run_id, task, metric, filter, dimension, slice, experiment_id, model, "
                'suite, value, "primary", partial, attempt, fingerprint, recorded_at) '
                "VALUES ('r', 't', 'acc', 'none', '', '', '1', 'm', 's', 0.5, 1, 0, 1, '{}', 1.0)"
            )
        )
    migrate(old)
    with old.connect() as connection:
        kept = connection.execute(text("SELECT run_id, source, warnings, factor FROM lmms_scores")).one()
    assert tuple(kept) == ("r", "queue", "[]", None)
    assert SuiteStore(old).heads() == []
    old.dispose()
