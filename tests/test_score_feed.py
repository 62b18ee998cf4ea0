"""The score index follows MLflow, whoever writes there: through a real server, and past it into the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from core_services import look_models_up_at
from mlflow import MlflowClient
from mlflow_process import MlflowProcess
from sqlalchemy import delete, func, select
from sqlalchemy.exc import DataError

from mlflow_lmms.board_cells import BoardCells
from mlflow_lmms.cli.main import run as run_command
from mlflow_lmms.client import Client
from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.names import Tag
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.score_feed import REINDEX, SWEEP, ScoreFeed
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.settings import Settings
from mlflow_lmms.sql.schema import Base, IndexedRunRow, ScoreRow
from mlflow_lmms.sql.schema_feed import DirtyRow

NEVER = "1000000"
DEADLINE_S = 30.0
#: Of one run: model, task, value.
Shown = list[tuple[str, str, float]]


@dataclass
class FollowedServer(MlflowProcess):
    """A server that notices changes by its hook alone: its poll and sweep are far away."""

    uri: str = ""

    @property
    def backend_store_uri(self) -> str:
        return self.uri or super().backend_store_uri


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, valkey: str
) -> Iterator[FollowedServer]:
    environ = {"MLFLOW_LMMS_INDEX_POLL_S": NEVER, "MLFLOW_LMMS_INDEX_SWEEP_S": NEVER}
    started = FollowedServer(tmp_path_factory.mktemp("followed"), valkey, environ=environ)
    if request.param == "postgresql":
        started.uri = str(request.getfixturevalue("postgres_url"))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("mlflow-tables"))
            MlflowClient(started.uri).search_model_versions("")
    else:
        started.template = mlflow_template
    started.start()
    client = Client(started.url)
    until(lambda: all((client.index_state()[name] or {}).get("ended_at") for name in (SWEEP, REINDEX)))
    yield started
    started.stop()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.02)


@dataclass
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Core:
    """An index with its feed on tables of its own."""

    store: EvaluationStore
    runs: RunTables
    index: ScoreIndex
    feed: ScoreFeed
    clock: Clock
    settings: Settings

    def walk(self) -> None:
        """Let a whole sweep pass."""
        self.clock.now += self.settings.index_sweep_s * 2
        for _ in range(1000):
            assert self.feed.tick() == []
            ended = [(walk.ended_at if walk else None) for walk in map(self.feed.walk, (SWEEP, REINDEX))]
            if all(ended):
                return
            self.clock.now += self.settings.index_sweep_s / 100
        pytest.fail("the sweep does not end")

    def count(self, table: type[Base], **wanted: str) -> int:
        with self.store.session() as session:
            return session.scalar(select(func.count()).select_from(table).filter_by(**wanted)) or 0


def core_on(ours: str, mlflow: str) -> Core:
    clock, settings = Clock(time.time()), Settings()
    store = EvaluationStore(open_database(ours), clock=clock)
    store.migrate()
    runs = RunTables(mlflow)
    index = ScoreIndex(store, runs, BoardCells())
    return Core(store, runs, index, ScoreFeed(store, index, runs, settings, clock=clock), clock, settings)


@pytest.fixture
def core(server: FollowedServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Core]:
    """Beside the server, on the same MLflow database and tables of its own, so that neither does the other's work."""
    ours = str(request.getfixturevalue("empty_postgres_url")) if server.uri else f"sqlite:///{tmp_path}/lmms.db"
    made = core_on(ours, server.backend_store_uri)
    yield made
    made.runs.close()
    made.store.engine.dispose()


class Way(Protocol):
    """A way to write to MLflow, and to see what the index made of it."""

    client: MlflowClient

    def shows(self, run_id: str, wanted: Shown) -> None:
        """Fail when the index does not come to show just this."""


@dataclass
class ThroughServer:
    client: MlflowClient
    index: ScoreIndex

    def shows(self, run_id: str, wanted: Shown) -> None:
        until(lambda: shown(self.index, run_id) == sorted(wanted))


@dataclass
class PastServer:
    client: MlflowClient
    core: Core

    def shows(self, run_id: str, wanted: Shown) -> None:
        self.core.walk()
        assert shown(self.core.index, run_id) == sorted(wanted)


def shown(index: ScoreIndex, run_id: str) -> Shown:
    return sorted((score.model, score.task, score.value) for score in index.of_runs([run_id]))


@pytest.fixture(params=["through this server", "past this server"])
def way(
    request: pytest.FixtureRequest, server: FollowedServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ThroughServer | PastServer]:
    if request.param == "past this server":
        look_models_up_at(server.backend_store_uri, monkeypatch)
        yield PastServer(MlflowClient(server.backend_store_uri), request.getfixturevalue("core"))
        return
    store = EvaluationStore(open_database(database_url(None, server.backend_store_uri)))
    runs = RunTables(server.backend_store_uri)
    look_models_up_at(server.url, monkeypatch)
    yield ThroughServer(MlflowClient(server.url), ScoreIndex(store, runs, BoardCells()))
    runs.close()
    store.engine.dispose()


def new_experiment(client: MlflowClient, folder: Path) -> str:
    return str(client.create_experiment(f"feed {folder}", artifact_location=folder.as_uri()))


def task_tags(task: str) -> dict[str, str]:
    primary = {"metric": "acc", "filter": "none", "higher_is_better": True}
    return {Tag.primary(task): json.dumps(primary), Tag.fingerprint(task): "{}"}


def new_run(client: MlflowClient, experiment_id: str, **tags: str) -> str:
    """A finished run with one result, as somebody's own program logs it."""
    run = client.create_run(experiment_id, run_name="a run", tags=task_tags("ai2d") | tags)
    client.log_metric(run.info.run_id, "ai2d/acc", 0.5)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def test_a_run_comes_with_its_end(way: Way, tmp_path: Path) -> None:
    run_id = new_run(way.client, new_experiment(way.client, tmp_path))
    way.shows(run_id, [("a run", "ai2d", 0.5)])


def test_late_metrics_and_tasks_are_followed(way: Way, tmp_path: Path) -> None:
    run_id = new_run(way.client, new_experiment(way.client, tmp_path))
    way.shows(run_id, [("a run", "ai2d", 0.5)])
    way.client.log_metric(run_id, "ai2d/acc", 0.625, step=2)
    way.shows(run_id, [("a run", "ai2d", 0.625)])
    for key, value in task_tags("mme").items():
        way.client.set_tag(run_id, key, value)
    way.client.log_metric(run_id, "mme/acc", 0.25)
    way.shows(run_id, [("a run", "ai2d", 0.625), ("a run", "mme", 0.25)])


def test_tags_and_names_are_followed(way: Way, tmp_path: Path) -> None:
    run_id = new_run(way.client, new_experiment(way.client, tmp_path))
    way.client.update_run(run_id, name="another name")
    way.shows(run_id, [("another name", "ai2d", 0.5)])
    way.client.set_tag(run_id, Tag.MODEL, "org/m")
    way.client.set_tag(run_id, Tag.MODEL_VERSION, "3")
    way.shows(run_id, [("org/m v3", "ai2d", 0.5)])
    way.client.delete_tag(run_id, Tag.MODEL_VERSION)
    way.shows(run_id, [("org/m", "ai2d", 0.5)])
    for key in task_tags("ai2d"):
        way.client.delete_tag(run_id, key)
    way.shows(run_id, [])


def test_a_run_that_is_run_again_shows_its_new_score(way: Way, tmp_path: Path) -> None:
    run_id = new_run(way.client, new_experiment(way.client, tmp_path))
    way.shows(run_id, [("a run", "ai2d", 0.5)])
    way.client.update_run(run_id, status="RUNNING")
    way.client.log_metric(run_id, "ai2d/acc", 0.75, step=2)
    way.client.set_terminated(run_id)
    way.shows(run_id, [("a run", "ai2d", 0.75)])


def test_deletion_and_return_of_a_run_are_followed(way: Way, tmp_path: Path) -> None:
    run_id = new_run(way.client, new_experiment(way.client, tmp_path))
    way.shows(run_id, [("a run", "ai2d", 0.5)])
    way.client.delete_run(run_id)
    way.shows(run_id, [])
    way.client.restore_run(run_id)
    way.shows(run_id, [("a run", "ai2d", 0.5)])


def test_deletion_return_and_new_name_of_an_experiment_are_followed(way: Way, tmp_path: Path) -> None:
    experiment_id = new_experiment(way.client, tmp_path)
    run_ids = [new_run(way.client, experiment_id) for _ in range(3)]
    for run_id in run_ids:
        way.shows(run_id, [("a run", "ai2d", 0.5)])
    way.client.delete_experiment(experiment_id)
    for run_id in run_ids:
        way.shows(run_id, [])
    way.client.restore_experiment(experiment_id)
    way.client.rename_experiment(experiment_id, f"renamed {tmp_path}")
    for run_id in run_ids:
        way.shows(run_id, [("a run", "ai2d", 0.5)])


def test_what_mlflow_gc_removes_is_gone(way: Way, server: FollowedServer, core: Core, tmp_path: Path) -> None:
    run_id = new_run(way.client, new_experiment(way.client, tmp_path))
    core.walk()
    assert core.count(ScoreRow, run_id=run_id) == 1
    way.client.delete_run(run_id)
    store = server.backend_store_uri
    command = [sys.executable, "-P", "-m", "mlflow", "gc", "--backend-store-uri", store, "--run-ids", run_id]
    subprocess.run(command, env=os.environ | {"MLFLOW_TRACKING_URI": store}, cwd=tmp_path, check=True)
    way.shows(run_id, [])
    core.walk()
    assert core.count(ScoreRow, run_id=run_id) == core.count(IndexedRunRow, run_id=run_id) == 0


def test_a_run_that_others_end_is_found_by_the_poll(core: Core, server: FollowedServer, tmp_path: Path) -> None:
    client = MlflowClient(server.backend_store_uri)
    experiment_id = new_experiment(client, tmp_path)
    core.walk()
    core.clock.now = time.time()
    core.feed.tick()
    run_id = new_run(client, experiment_id)
    core.feed.tick()
    assert shown(core.index, run_id) == [], "neither poll nor sweep is due"
    core.clock.now += core.settings.index_poll_s
    core.feed.tick()
    assert shown(core.index, run_id) == [("a run", "ai2d", 0.5)]
    late = str(client.create_run(experiment_id, tags=task_tags("ai2d"), run_name="late").info.run_id)
    client.log_metric(late, "ai2d/acc", 0.5)
    client.set_terminated(late, end_time=int((time.time() - 3000) * 1000))  # told long after its end
    core.clock.now += core.settings.index_poll_s
    core.feed.tick()
    assert shown(core.index, late) == [("late", "ai2d", 0.5)]


def test_runs_of_others_leave_no_trace(core: Core, server: FollowedServer, tmp_path: Path) -> None:
    client = MlflowClient(server.backend_store_uri)
    run_id = str(client.create_run(new_experiment(client, tmp_path)).info.run_id)
    client.log_metric(run_id, "loss", 0.5)
    core.walk()
    core.feed.note_run(run_id)
    core.feed.keep_notes()
    assert core.count(DirtyRow) == 0
    core.feed.tick()
    assert core.index.refresh_run(run_id) == 0
    assert core.count(IndexedRunRow, run_id=run_id) == core.count(ScoreRow, run_id=run_id) == 0


def test_the_sweep_writes_only_what_has_changed(
    core: Core, server: FollowedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server.backend_store_uri)
    experiment_id = new_experiment(client, tmp_path)
    run_ids = [new_run(client, experiment_id) for _ in range(3)]
    core.walk()
    written: list[str] = []
    refresh = core.index.refresh_runs

    def watched(some: Collection[str], *, anew: bool = False) -> int:
        written.extend(some)
        return refresh(some, anew=anew)

    monkeypatch.setattr(core.index, "refresh_runs", watched)
    client.set_tag(run_ids[1], "mlflow.note.content", "of no matter")
    core.walk()
    assert written == []
    client.log_metric(run_ids[1], "ai2d/acc", 1.0)
    core.walk()
    assert written == [run_ids[1]]


def test_the_sweep_is_spread_over_its_period(
    core: Core, server: FollowedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_lmms.score_feed._PAGE", 2)
    monkeypatch.setattr("mlflow_lmms.score_feed._STRETCH_S", 60.0)
    client = MlflowClient(server.backend_store_uri)
    experiment_id = new_experiment(client, tmp_path)
    for _ in range(10):
        new_run(client, experiment_id)
    core.walk()
    core.clock.now += core.settings.index_sweep_s
    core.feed.tick()
    first = core.feed.walk(SWEEP)
    assert first is not None and first.ended_at is None and first.done == 2
    core.clock.now += core.settings.index_sweep_s * 0.4
    core.feed.tick()
    middle = core.feed.walk(SWEEP)
    assert middle is not None and middle.ended_at is None and first.total / 2 <= middle.done <= first.total / 2 + 2
    core.clock.now += core.settings.index_sweep_s * 0.4
    core.feed.tick()
    last = core.feed.walk(SWEEP)
    assert last is not None and last.ended_at is not None and last.done == core.runs.count()


def test_notes_outlive_an_absent_database_and_their_process(
    core: Core, server: FollowedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server.backend_store_uri)
    run_id = new_run(client, new_experiment(client, tmp_path))
    core.walk()
    client.log_metric(run_id, "ai2d/acc", 1.0)
    core.feed.note_run(run_id)
    with monkeypatch.context() as away:
        away.setattr(core.index, "_runs", RunTables("sqlite:////nowhere/at/all.db"))
        for _ in range(2):
            with pytest.raises(UnavailableError):
                core.feed.keep_notes()
    assert core.count(DirtyRow) == 0
    assert core.feed.keep_notes()
    assert core.count(DirtyRow, target=run_id) == 1
    core.clock.now += 60  # the process has been silent since, and another one leads
    other = ScoreFeed(core.store, core.index, core.runs, core.settings, clock=core.clock)
    other.tick()
    assert shown(core.index, run_id) == [("a run", "ai2d", 1.0)]
    assert core.count(DirtyRow) == 0


def test_a_run_that_the_database_refuses_keeps_no_other_out(
    core: Core, server: FollowedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server.backend_store_uri)
    experiment_id = new_experiment(client, tmp_path)
    good, bad = (new_run(client, experiment_id) for _ in range(2))
    refresh = core.index.refresh_runs

    def refuse(run_ids: Collection[str], **_options: bool) -> int:
        if bad in run_ids:
            raise DataError("INSERT", {}, ValueError("of no use"))
        return refresh(run_ids)

    monkeypatch.setattr(core.index, "refresh_runs", refuse)
    for run_id in (good, bad):
        core.feed.note_run(run_id)
    core.feed.keep_notes()
    problems = core.feed.tick()
    assert any(bad in line and "of no use" in line for line in problems)
    assert shown(core.index, good) == [("a run", "ai2d", 0.5)]
    assert core.count(DirtyRow) == 0


def test_a_rebuild_that_was_interrupted_goes_on_in_another_process(
    core: Core, server: FollowedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server.backend_store_uri)
    experiment_id = new_experiment(client, tmp_path)
    run_ids = [new_run(client, experiment_id) for _ in range(6)]
    core.walk()
    with core.store.session() as session, session.begin():
        session.execute(delete(ScoreRow))
    monkeypatch.setattr("mlflow_lmms.score_feed._PAGE", 2)
    with monkeypatch.context() as hurry:
        hurry.setattr("mlflow_lmms.score_feed._STRETCH_S", -1.0)  # one page a tick
        core.feed.start_reindex()
        core.feed.tick()
    begun = core.feed.walk(REINDEX)
    assert begun is not None and begun.done == 2 and begun.ended_at is None
    assert core.feed.start_reindex().started_at == begun.started_at, "it goes on and does not begin anew"
    other = ScoreFeed(core.store, core.index, core.runs, core.settings, clock=core.clock)
    core.clock.now += 60  # the leader has been silent
    for _ in range(200):
        other.tick()
    ended = core.feed.walk(REINDEX)
    assert ended is not None and ended.ended_at is not None and ended.done == core.runs.count()
    assert ended.started_at == begun.started_at
    assert all(shown(core.index, run_id) == [("a run", "ai2d", 0.5)] for run_id in run_ids)


def test_the_command_builds_the_index_anew_and_tells_how_far_it_is(
    server: FollowedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(server.backend_store_uri)
    run_id = new_run(client, new_experiment(client, tmp_path))  # unnoticed: the server's poll and sweep are far away
    store = EvaluationStore(open_database(database_url(None, server.backend_store_uri)))
    runs = RunTables(server.backend_store_uri)
    index = ScoreIndex(store, runs, BoardCells())
    assert shown(index, run_id) == []
    monkeypatch.setenv("MLFLOW_LMMS_SERVER_URL", server.url)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_command(["reindex", "--format", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["done"] == runs.count() and told["ended_at"] > told["started_at"]
    assert shown(index, run_id) == [("a run", "ai2d", 0.5)]
    assert run_command(["reindex", "--no-wait"]) == 0
    assert f"{told['total']} runs are being read" in capfd.readouterr().out
    runs.close()
    store.engine.dispose()


def test_what_is_read_in_bulk_is_what_mlflow_says(core: Core, server: FollowedServer, tmp_path: Path) -> None:
    client = MlflowClient(server.backend_store_uri)
    experiment_id = new_experiment(client, tmp_path)
    run_id = new_run(client, experiment_id, **{"a tag": "ä" * 500})
    client.log_param(run_id, "limit", "20")
    client.log_metric(run_id, "nan", float("nan"))
    client.log_metric(run_id, "inf", float("inf"))
    client.log_metric(run_id, "ai2d/acc", 0.125, step=7)
    deleted = new_run(client, experiment_id)
    client.delete_run(deleted)
    read = core.runs.read([run_id, deleted, "0" * 32])
    assert set(read) == {run_id, deleted}
    for id_, run in read.items():
        said = client.get_run(id_)
        assert dict(run.info) == dict(said.info)
        assert (run.data.params, run.data.tags) == (said.data.params, said.data.tags)
        assert repr(sorted(run.data.metrics.items())) == repr(sorted(said.data.metrics.items()))
    assert core.runs.with_results([run_id, deleted]) == {run_id, deleted}
    assert core.runs.page("", 10, experiment_id=experiment_id) == sorted([run_id, deleted])
    assert core.runs.count() >= 2
