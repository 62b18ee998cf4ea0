"""The evaluation tables on SQLite and PostgreSQL: every move, fencing tokens, claims at once, migrations."""

from __future__ import annotations

import gc
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from click.testing import CliRunner
from mlflow.db import commands as mlflow_db
from sqlalchemy import Engine, inspect, text, update

from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.errors import ConfigurationError, NotFoundError, UnavailableError
from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.retry_budget import Budget
from mlflow_lmms.sql.migration import _config, current_revision, migrate, newest_revision
from mlflow_lmms.sql.schema import VERSION_TABLE, Base, TaskRow
from mlflow_lmms.states import MOVES, FailureClass, State
from mlflow_lmms.work_order import ResolvedModel

BOX: dict[str, Any] = {"box": "box", "slot": "box.cpu0", "devices": ()}
MODEL = ResolvedModel(label="toy v1", name="toy", version="1", adapter="dummy", model_args={}, gpus=0)
ALL_MOVES = [(start, end) for start in State for end in State]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with our tables."""
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    else:
        where = f"sqlite:///{tmp_path_factory.mktemp('store')}/lmms.db"
    engine = open_database(where)
    migrate(engine)
    engine.dispose()
    return where


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[EvaluationStore]:
    """A store on tables without rows."""
    engine = open_database(url)
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    yield EvaluationStore(engine, clock=clock)
    engine.dispose()


def task(name: str, part: str = "0", state: State = State.QUEUED) -> TaskStatus:
    return TaskStatus(name, part, state, 1, 0, None, None, None, None, None, None, None, None)


def evaluation(run_id: str = "run", *tasks: TaskStatus, **fields: Any) -> Evaluation:
    asked = tasks or (task("a"), task("b"))
    made = Evaluation(
        run_id=run_id,
        experiment_id="1",
        name=f"toy v1 · {run_id}",
        model="toy v1",
        suite="suite",
        request=EvaluationRequest.parse({"adapter": "dummy", "tasks": [one.task for one in asked]}),
        resolved=MODEL,
        state=State.QUEUED,
        priority="normal",
        created_by="ada",
        created_at=1000.0,
        started_at=None,
        ended_at=None,
        cancel_requested=False,
        tasks=asked,
        parts=tuple(
            PartStatus(part, 0, 0, None, None, (), None, None) for part in dict.fromkeys(t.part for t in asked)
        ),
    )
    return replace(made, **fields)


def put(store: EvaluationStore, state: State, name: str = "a", run_id: str = "run") -> None:
    """Put a task into a state whatever the table of moves says."""
    with store.engine.begin() as connection:
        where = (TaskRow.run_id == run_id, TaskRow.task == name)
        connection.execute(update(TaskRow).where(*where).values(state=state))


def states(store: EvaluationStore, run_id: str = "run") -> list[State]:
    return [one.state for one in store.get(run_id).tasks]


def at_once(count: int, action: Callable[[int], Any]) -> list[Any]:
    """Call `action` with 0 … count−1 in as many threads, all let go at the same moment."""
    barrier = Barrier(count)

    def go(number: int) -> Any:
        barrier.wait(30)
        return action(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(go, range(count)))


def test_an_evaluation_comes_back_as_it_was_stored(store: EvaluationStore) -> None:
    stored = evaluation("run", task("b"), task("a", "1"), task("名", "0"))
    store.add(stored)
    assert store.get("run") == stored


def test_an_unknown_run_is_named(store: EvaluationStore) -> None:
    with pytest.raises(NotFoundError, match="'nobody'"):
        store.get("nobody")


def test_search_filters_and_orders(store: EvaluationStore) -> None:
    store.add(evaluation("one", created_at=1.0))
    store.add(evaluation("two", created_at=2.0, experiment_id="2", model="other v1"))
    store.add(evaluation("three", created_at=3.0, state=State.FAILED))

    def found(**query: Any) -> list[str]:
        return [one.run_id for one in store.search(**query)]

    assert found() == ["three", "two", "one"]
    assert found(limit=2) == ["three", "two"]
    assert found(before=3.0) == ["two", "one"]
    assert found(experiment_ids=["1"]) == ["three", "one"]
    assert found(experiment_ids=[]) == []
    assert found(states=[State.QUEUED]) == ["two", "one"]
    assert found(model="other v1") == ["two"]


def test_unfinished_evaluations_come_oldest_first(store: EvaluationStore) -> None:
    store.add(evaluation("young", created_at=2.0))
    store.add(evaluation("old", created_at=1.0))
    store.add(evaluation("done", task("a", state=State.FINISHED), created_at=0.0))
    assert [one.run_id for one in store.unfinished()] == ["old", "young"]


def add_a_task_for_each_move(store: EvaluationStore) -> None:
    """One task for each pair of states, named for it and standing in the first; the part has token 7."""
    store.add(evaluation("run", task("first"), *(task(f"{start}-{end}") for start, end in ALL_MOVES)))
    store.claim("run", "0", token=7, **BOX)
    for start, end in ALL_MOVES:
        put(store, start, f"{start}-{end}")


@pytest.mark.parametrize("token", [None, 7])
def test_a_move_happens_exactly_when_the_table_allows_it(store: EvaluationStore, token: int | None) -> None:
    add_a_task_for_each_move(store)
    for start, end in ALL_MOVES:
        allowed = end in MOVES[start]
        assert store.move("run", [f"{start}-{end}"], end, token=token) == ([f"{start}-{end}"] if allowed else [])
    for moved in store.get("run").tasks[1:]:
        start, end = (State(name) for name in moved.task.split("-"))
        assert moved.state == (end if end in MOVES[start] else start)


@pytest.mark.parametrize("token", [6, 8])
def test_no_move_happens_with_a_token_that_is_not_the_parts(store: EvaluationStore, token: int) -> None:
    add_a_task_for_each_move(store)
    before = store.get("run")
    for start, end in ALL_MOVES:
        assert store.move("run", [f"{start}-{end}"], end, token=token) == []
    assert store.get("run") == before


def test_a_token_counts_for_its_own_part_alone(store: EvaluationStore) -> None:
    store.add(evaluation("run", task("a", "0"), task("b", "1")))
    store.claim("run", "0", token=1, **BOX)
    store.claim("run", "1", token=2, **BOX)
    assert store.move("run", ["a", "b"], State.RUNNING, token=2) == ["b"]


def test_times_and_attempts_follow_the_moves(store: EvaluationStore, clock: Clock) -> None:
    store.add(evaluation("run", task("a")))
    clock.now = 1010.0
    store.claim("run", "0", token=1, **BOX)
    clock.now = 1020.0
    store.move("run", ["a"], State.RUNNING, token=1)
    clock.now = 1030.0
    store.move("run", ["a"], State.FAILED, token=1, failure=FailureClass.SCORING, message="m", log_tail="l")
    run = store.get("run")
    assert (run.started_at, run.ended_at, run.state) == (1010.0, 1030.0, State.FAILED)
    assert (run.tasks[0].started_at, run.tasks[0].ended_at) == (1020.0, 1030.0)
    assert (run.tasks[0].failure, run.tasks[0].message, run.tasks[0].log_tail) == (FailureClass.SCORING, "m", "l")
    assert store.requeue("run", ["a"], automatic=False) == ["a"]
    run = store.get("run")
    assert (run.started_at, run.ended_at, run.state) == (1010.0, None, State.QUEUED)
    assert run.tasks[0] == replace(task("a"), attempt=2)


def test_automatic_retries_are_counted_until_a_user_retries(store: EvaluationStore) -> None:
    store.add(evaluation("run", task("a")))
    for token in (1, 2):
        store.claim("run", "0", token=token, **BOX)
        requeued = store.requeue("run", ["a"], automatic=True, budget=Budget.CRASH, token=token, message="lost")
        assert requeued == ["a"]
    (one,) = store.get("run").tasks
    assert (one.attempt, one.automatic_retries, one.retries, one.message) == (3, 2, {"crash": 2}, "lost")
    store.claim("run", "0", token=3, **BOX)
    store.requeue("run", ["a"], automatic=True, token=3, budget=Budget.WORKER_LOST)
    assert store.get("run").tasks[0].retries == {"crash": 2, "worker_lost": 1}
    put(store, State.CANCELLED)
    store.requeue("run", ["a"], automatic=False)
    (one,) = store.get("run").tasks
    assert (one.attempt, one.automatic_retries, one.retries, one.message) == (5, 0, {}, None)


def test_what_is_given_back_is_charged_to_nothing(store: EvaluationStore, clock: Clock) -> None:
    store.add(evaluation("run", task("a")))
    store.claim("run", "0", token=1, **BOX)
    clock.now = 1050.0
    assert store.requeue("run", ["a"], automatic=True, token=1) == ["a"]
    (one,) = store.get("run").tasks
    assert (one.state, one.attempt, one.automatic_retries, one.retries) == (State.QUEUED, 2, 0, {})
    assert store.get("run").part("0").queued_at == 1050.0


def test_a_part_remembers_that_it_ran_out_of_memory(store: EvaluationStore) -> None:
    store.add(evaluation("run", task("a"), task("b", "1")))
    store.claim("run", "0", token=1, **BOX)
    store.requeue("run", ["a"], automatic=True, token=1, budget=Budget.OUT_OF_MEMORY)
    assert [part.out_of_memory for part in store.get("run").parts] == [1, 0]


def test_a_waiting_part_is_split_and_each_task_waits_in_one_part(store: EvaluationStore) -> None:
    store.add(evaluation("run", *(task(name) for name in "abcd"), task("e", "1")))
    assert store.split_part("run", "0", [["b"], ["a", "d"], ["c"]]) == ["2", "3"]
    run = store.get("run")
    assert {part.part: [one.task for one in run.tasks_of(part.part)] for part in run.parts} == {
        "0": ["b"], "1": ["e"], "2": ["a", "d"], "3": ["c"],
    }  # fmt: skip
    assert store.claim("run", "2", token=4, **BOX) == ["a", "d"]


@pytest.mark.parametrize(
    "parts",
    [[["a"]], [["a"], ["b"], []], [["a"], ["b", "c"]], [["a"], ["b"], ["a"]]],
    ids=["some", "empty", "foreign", "twice"],
)
def test_a_part_is_split_into_its_own_tasks_or_not_at_all(store: EvaluationStore, parts: list[list[str]]) -> None:
    store.add(evaluation("run", task("a"), task("b"), task("c", "1")))
    before = store.get("run")
    assert store.split_part("run", "0", parts) == []
    assert store.get("run") == before


def test_a_part_that_was_ever_claimed_is_not_split(store: EvaluationStore) -> None:
    store.add(evaluation("run", task("a"), task("b")))
    store.claim("run", "0", token=1, **BOX)
    store.requeue("run", ["a", "b"], automatic=True, token=1)
    assert store.split_part("run", "0", [["a"], ["b"]]) == []


def test_of_a_claim_and_a_split_at_once_one_wins(store: EvaluationStore, url: str) -> None:
    others = [EvaluationStore(open_database(url)) for _ in range(2)]
    for round_ in range(10):
        run_id = f"run{round_}"
        store.add(evaluation(run_id))
        moves: list[Callable[[], Any]] = [
            partial(others[0].claim, run_id, "0", token=1, **BOX),
            partial(others[1].split_part, run_id, "0", [["a"], ["b"]]),
        ]
        claimed, new = at_once(2, lambda number: moves[number]())  # noqa: B023
        assert (claimed, new) in ((["a", "b"], []), (["a"], ["1"]))
        assert states(store, run_id).count(State.STARTING) == len(claimed)
    for other in others:
        other.engine.dispose()


def finished(store: EvaluationStore) -> None:
    """A run of two finished tasks on a part with GPUs."""
    parts = (PartStatus("0", 4, 0, None, None, (), None, None),)
    store.add(evaluation("run", parts=parts))
    store.claim("run", "0", token=1, **BOX)
    for name, score in (("a", 0.5), ("b", 0.25)):
        put(store, State.RECORDING, name)
        store.move("run", [name], State.FINISHED, token=1, score=score, metric="acc", samples=8)


def test_a_rescore_waits_in_a_part_of_its_own_without_gpus(store: EvaluationStore) -> None:
    finished(store)
    assert store.rescore("run", ["a"]) == ["a"]
    assert store.rescore("run", ["a"]) == []
    run = store.get("run")
    (part,) = [part for part in run.parts if part.rescore]
    assert (part.part, part.gpus, run.task("a").part, run.task("b").part) == ("1", 0, "1", "0")
    assert (run.task("a").state, run.task("a").attempt, run.task("a").score) == (State.QUEUED, 2, 0.5)
    assert (run.state, run.ended_at) == (State.RUNNING, None)
    assert store.rescore("run", ["b"]) == ["b"]
    assert store.claim("run", "1", token=2, **BOX) == ["a", "b"]


def test_a_rescore_replaces_the_result_when_it_has_another(store: EvaluationStore) -> None:
    finished(store)
    store.rescore("run", ["a"])
    store.claim("run", "1", token=2, **BOX)
    store.move("run", ["a"], State.RUNNING, token=2)
    store.move("run", ["a"], State.RECORDING, token=2)
    assert store.move("run", ["a"], State.FINISHED, token=2, score=0.75) == ["a"]
    assert (store.get("run").state, store.get("run").task("a").score) == (State.FINISHED, 0.75)
    assert store.end_rescore("run", ["a"], "too late", token=2) == []
    assert store.get("run").task("a").message is None


@pytest.mark.parametrize("state", [State.QUEUED, State.STARTING, State.RUNNING, State.RECORDING])
def test_a_rescore_that_comes_to_nothing_leaves_the_result(store: EvaluationStore, state: State) -> None:
    finished(store)
    store.rescore("run", ["a"])
    store.claim("run", "1", token=2, **BOX)
    put(store, state)
    assert store.end_rescore("run", ["a", "b"], "the judge is away", token=3) == []
    assert store.end_rescore("run", ["a", "b"], "the judge is away", token=2) == ["a"]
    run = store.get("run")
    assert (run.state, run.task("a").state, run.task("a").score) == (State.FINISHED, State.FINISHED, 0.5)
    assert (run.task("a").message, run.task("b").message) == ("the judge is away", None)


def test_only_what_is_finished_is_rescored(store: EvaluationStore) -> None:
    store.add(evaluation("run", *(task(state, state=state) for state in State)))
    assert store.rescore("run", [str(state) for state in State]) == ["finished"]


def test_a_claim_takes_what_is_queued_and_tells_who_has_it(store: EvaluationStore, clock: Clock) -> None:
    store.add(evaluation("run", task("b"), task("a"), task("c", state=State.FINISHED), task("d", "1")))
    clock.now = 1005.0
    tasks = store.claim("run", "0", token=3, box="gpu7", slot="gpu7.0", devices=("GPU-a", "GPU-b"))
    assert tasks == ["b", "a"]
    run = store.get("run")
    assert run.part("0") == PartStatus("0", 0, 3, "gpu7", "gpu7.0", ("GPU-a", "GPU-b"), 1005.0, 1005.0)
    assert states(store) == [State.STARTING, State.STARTING, State.FINISHED, State.QUEUED]
    assert run.state == State.STARTING
    assert store.largest_token() == 3


@pytest.mark.parametrize("token", [1, 2])
def test_a_claim_without_a_newer_token_is_refused(store: EvaluationStore, token: int) -> None:
    store.add(evaluation())
    store.claim("run", "0", token=2, **BOX)
    store.requeue("run", ["a"], automatic=True)
    assert store.claim("run", "0", token=token, **BOX) is None
    assert states(store) == [State.QUEUED, State.STARTING]


def test_a_claim_of_a_part_with_nothing_queued_changes_nothing(store: EvaluationStore) -> None:
    store.add(evaluation())
    store.claim("run", "0", token=1, **BOX)
    before = store.get("run")
    assert store.claim("run", "0", token=2, box="other", slot="s", devices=()) is None
    assert store.get("run") == before


def test_of_claims_at_once_one_wins(store: EvaluationStore, url: str) -> None:
    others = [EvaluationStore(open_database(url)) for _ in range(4)]
    for round_ in range(10):
        run_id = f"run{round_}"
        store.add(evaluation(run_id))
        won = at_once(4, lambda number: others[number].claim(run_id, "0", token=number + 1, **BOX))  # noqa: B023
        winners = [number + 1 for number, tasks in enumerate(won) if tasks]
        assert len(winners) == 1, won
        assert store.get(run_id).part("0").token == winners[0]
    for other in others:
        other.engine.dispose()


def test_of_moves_at_once_each_task_moves_once(store: EvaluationStore, url: str) -> None:
    names = [f"t{number}" for number in range(12)]
    orders = [names, names[::-1], names[6:] + names[:6], names[::-1]]
    others = [EvaluationStore(open_database(url)) for _ in orders]
    for round_ in range(5):
        run_id = f"run{round_}"
        store.add(evaluation(run_id, *(task(name) for name in names)))
        moved = at_once(4, lambda number: others[number].move(run_id, orders[number], State.CANCELLED))  # noqa: B023
        assert sorted(name for some in moved for name in some) == sorted(names)
        assert store.get(run_id).state == State.CANCELLED
    for other in others:
        other.engine.dispose()


def test_parts_that_end_at_once_leave_a_finished_run(store: EvaluationStore, url: str) -> None:
    others = [EvaluationStore(open_database(url)) for _ in range(4)]
    for round_ in range(5):
        run_id = f"run{round_}"
        store.add(evaluation(run_id, *(task(f"t{n}", str(n), State.RECORDING) for n in range(4))))
        at_once(4, lambda number: others[number].move(run_id, [f"t{number}"], State.FINISHED))  # noqa: B023
        run = store.get(run_id)
        assert (run.state, run.ended_at is not None) == (State.FINISHED, True)
    for other in others:
        other.engine.dispose()


def test_only_the_owner_is_seen(store: EvaluationStore, clock: Clock) -> None:
    store.add(evaluation())
    store.claim("run", "0", token=5, **BOX)
    clock.now = 1042.0
    assert not store.owns("run", "0", 4)
    assert store.get("run").part("0").seen_at == 1000.0
    assert store.owns("run", "0", 5)
    assert store.get("run").part("0").seen_at == 1042.0
    assert not store.owns("run", "9", 5)


def test_what_mlflow_does_not_show_yet_is_found(store: EvaluationStore) -> None:
    store.add(evaluation())
    assert [one.run_id for one in store.to_mirror()] == ["run"]
    store.mirrored("run", State.QUEUED)
    assert store.to_mirror() == []
    store.claim("run", "0", token=1, **BOX)
    assert [one.run_id for one in store.to_mirror()] == ["run"]


def test_cancel_is_asked_for_and_taken_back(store: EvaluationStore) -> None:
    store.add(evaluation())
    store.request_cancel("run")
    assert store.get("run").cancel_requested
    store.request_cancel("run", False)
    assert not store.get("run").cancel_requested


def test_a_forgotten_evaluation_is_gone(store: EvaluationStore) -> None:
    store.add(evaluation())
    store.add(evaluation("other"))
    store.forget("run")
    assert [one.run_id for one in store.search()] == ["other"]
    store.add(evaluation())


def test_leadership_goes_to_one_and_to_the_next_when_it_runs_out(store: EvaluationStore, clock: Clock) -> None:
    assert store.lead("reaper", "a", 10)
    assert not store.lead("reaper", "b", 10)
    assert store.lead("sweep", "b", 10)
    clock.now += 9
    assert store.lead("reaper", "a", 10)
    clock.now += 9
    assert not store.lead("reaper", "b", 10)
    clock.now += 2
    assert store.lead("reaper", "b", 10)
    assert not store.lead("reaper", "a", 10)


def test_of_processes_that_want_to_lead_at_once_one_does(store: EvaluationStore, url: str) -> None:
    others = [EvaluationStore(open_database(url)) for _ in range(4)]
    for round_ in range(5):
        led = at_once(4, lambda number: others[number].lead(f"duty{round_}", str(number), 60))  # noqa: B023
        assert sum(led) == 1
    for other in others:
        other.engine.dispose()


def test_the_tables_are_what_the_migrations_make(store: EvaluationStore) -> None:
    with store.engine.connect() as connection:
        options = {
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "include_name": lambda name, kind, parents: kind != "table" or name.startswith("lmms_"),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []


def test_migrating_again_changes_nothing(store: EvaluationStore) -> None:
    store.add(evaluation())
    store.migrate()
    assert current_revision(store.engine) == newest_revision()
    assert store.get("run").run_id == "run"


def test_a_database_of_a_newer_version_is_refused(store: EvaluationStore) -> None:
    revision = current_revision(store.engine)
    change = text(f"UPDATE {VERSION_TABLE} SET version_num = :revision")
    with store.engine.begin() as connection:
        connection.execute(change, {"revision": "9999"})
    try:
        with pytest.raises(ConfigurationError, match="9999"):
            store.migrate()
    finally:
        with store.engine.begin() as connection:
            connection.execute(change, {"revision": revision})


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any tables."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("empty_postgres_url"))
    return f"sqlite:///{tmp_path}/new.db"


def test_processes_that_migrate_at_once_make_the_tables_once(new_database: str) -> None:
    engines = [open_database(new_database) for _ in range(3)]
    at_once(3, lambda number: migrate(engines[number]))
    assert current_revision(engines[0]) == newest_revision()
    for engine in engines:
        engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def mlflow_database(request: pytest.FixtureRequest, mlflow_uri: str) -> str:
    """A database with MLflow's tables in it."""
    if request.param == "sqlite":
        return mlflow_uri
    where = str(request.getfixturevalue("empty_postgres_url"))
    upgrade_mlflow(where)
    return where


def upgrade_mlflow(url: str) -> None:
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # the command leaves its engine open
        result = CliRunner().invoke(mlflow_db, ["upgrade", url], catch_exceptions=False)
        gc.collect()
    assert result.exit_code == 0, result.output


def mlflow_tables(engine: Engine) -> tuple[set[str], list[str]]:
    with engine.connect() as connection:
        versions = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    return {name for name in inspect(engine).get_table_names() if not name.startswith("lmms_")}, versions


def test_our_tables_live_in_mlflows_database_and_leave_it_as_it_was(mlflow_database: str) -> None:
    engine = open_database(mlflow_database)
    before = mlflow_tables(engine)
    migrate(engine)
    upgrade_mlflow(mlflow_database)
    assert mlflow_tables(engine) == before
    EvaluationStore(engine).add(evaluation())
    with engine.begin() as connection:
        command.downgrade(_config(connection), "base")
    upgrade_mlflow(mlflow_database)
    assert mlflow_tables(engine) == before
    assert {name for name in inspect(engine).get_table_names() if name.startswith("lmms_")} <= {VERSION_TABLE}
    engine.dispose()


def test_sqlite_keeps_our_tables_in_a_file_beside_mlflows() -> None:
    assert database_url(None, "sqlite:////data/mlflow.db").database == "/data/mlflow-lmms.db"
    assert database_url(None, "sqlite:///mlflow").database == "mlflow-lmms.db"
    assert database_url("sqlite:///own.db", "sqlite:///mlflow.db").database == "own.db"


def test_postgresql_is_shared_with_mlflow() -> None:
    url = database_url(None, "postgresql://u:p@h/mlflow")
    assert url.render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h/mlflow"


@pytest.mark.parametrize("store_uri", ["./mlruns", "file:///mlruns", "mysql+pymysql://u:geheim@h/mlflow"])
def test_a_store_that_cannot_hold_our_tables_is_refused(store_uri: str) -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_LMMS_DATABASE_URL") as caught:
        database_url(None, store_uri)
    assert "geheim" not in caught.value.message


def test_sqlite_writes_ahead_and_keeps_foreign_keys(tmp_path: Path) -> None:
    store = EvaluationStore(open_database(f"sqlite:///{tmp_path}/a.db"))
    store.migrate()
    with store.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    store.engine.dispose()


def test_a_database_that_does_not_answer_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    store = EvaluationStore(open_database(f"sqlite:///{tmp_path}/broken.db"))
    with pytest.raises(UnavailableError, match="database of the evaluations"):
        store.ping()
    store.engine.dispose()
    assert sqlite3.sqlite_version_info >= (3, 35), "UPDATE … RETURNING"
