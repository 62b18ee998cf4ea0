"""What the fleet keeps in tables, on SQLite and PostgreSQL: attempts, quotas, admins' words on boxes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from fleet_boxes import announce
from sqlalchemy import Engine

from mlflow_lmms.box_admin import BoxAdmin
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.gpu_use import GpuUse
from mlflow_lmms.planner.fleet import Quota, Quotas
from mlflow_lmms.planner.memory_estimate import ObservedPeak
from mlflow_lmms.queue_keys import BOX_STATE_KEY, KNOWN_BOXES_KEY, box_key, known_json
from mlflow_lmms.quotas import QuotaStore
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.sql.migration import migrate
from mlflow_lmms.sql.schema import Base
from mlflow_lmms.states import State
from mlflow_lmms.work_order import ResolvedModel, Use

HOUR = 3600.0
DAY = 24 * HOUR
NOW = 1e9
MODEL = ResolvedModel(label="toy v1", name="toy", version="1", adapter="dummy", model_args={}, gpus=2)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with our tables."""
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    else:
        where = f"sqlite:///{tmp_path_factory.mktemp('fleet')}/lmms.db"
    engine = open_database(where)
    migrate(engine)
    engine.dispose()
    return where


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Tables without rows."""
    engine = open_database(url)
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def use(engine: Engine, clock: Clock) -> GpuUse:
    return GpuUse(engine, clock=clock)


def attempt(
    run: str, token: int = 1, gpus: int = 2, user: str | None = "ada", box: str = "a", at: float = NOW
) -> Any:
    """An evaluation and its part as they are when a worker has claimed it, after ten minutes of waiting."""
    part = PartStatus("0", gpus, 1, box, f"{box}.x", ("g1", "g2"), at, at, queued_at=at - 600)
    request = EvaluationRequest.parse({"adapter": "dummy", "tasks": "t", "batch_size": 4})
    about: dict[str, Any] = {"experiment_id": "1", "name": "n", "model": "toy v1", "suite": "s", "request": request}
    times: dict[str, Any] = {"created_at": at - 600, "started_at": None, "ended_at": None}
    evaluation = Evaluation(
        run_id=run, resolved=MODEL, state=State.STARTING, priority="normal", created_by=user, cancel_requested=False,
        tasks=(), parts=(part,), **about, **times,
    )  # fmt: skip
    return evaluation, part


def worked(use: GpuUse, clock: Clock, run: str, seconds: float, told: Use | None = None, **fields: Any) -> None:
    """An attempt that ends after some seconds."""
    evaluation, part = attempt(run, at=clock.now, **fields)
    use.started(evaluation, part)
    clock.now += seconds
    use.ended(run, "0", part.token, "finished", told)


def test_what_attempts_used_is_summed_up(use: GpuUse, clock: Clock) -> None:
    worked(use, clock, "r1", HOUR, Use(gpu_seconds=7000, peak_memory=30, mean_utilisation=75.0, energy_j=3.6e6))
    worked(use, clock, "r2", HOUR, user="eve", box="b")
    clock.now += 60
    (eve, ada) = use.by_user(NOW - DAY)
    assert (eve.name, ada.name) == ("eve", "ada")
    assert (eve.gpu_hours, eve.idle_share, eve.energy_kwh) == (2.0, None, None)
    assert ada.gpu_hours == pytest.approx(7000 / HOUR)
    assert (ada.idle_share, ada.energy_kwh) == (0.25, 1.0)
    assert (ada.attempts, ada.queue_wait_s) == (1, 600)
    assert [one.name for one in use.by_box(NOW)] == ["b", "a"]
    assert [one.name for one in use.by_run(NOW + HOUR + 1)] == ["r2"], "what ended before is left out"


def test_work_that_goes_on_counts_until_now_in_reports_and_not_for_quotas(use: GpuUse, clock: Clock) -> None:
    use.started(*attempt("r"))
    clock.now += HOUR / 2
    assert use.by_user(NOW)[0].gpu_hours == 1.0
    assert use.of_users(DAY) == {}


def test_calls_that_are_repeated_count_once(use: GpuUse, clock: Clock) -> None:
    evaluation, part = attempt("r")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: use.started(evaluation, part), range(8)))
    clock.now += HOUR
    use.ended("r", "0", 1, "finished", None)
    clock.now += HOUR
    use.ended("r", "0", 1, "lost", Use(gpu_seconds=1))
    use.ended("r", "0", 9, "lost", None)
    (one,) = use.by_run(NOW)
    assert (one.attempts, one.gpu_hours) == (1, 2.0)


def test_what_a_user_had_counts_in_the_period_and_fades(use: GpuUse, clock: Clock) -> None:
    worked(use, clock, "r1", HOUR)
    clock.now += DAY
    worked(use, clock, "r2", HOUR, user=None)
    found = use.of_users(DAY / 2)
    assert (found["ada"].gpu_hours, found[""].gpu_hours) == (0.0, 2.0)
    assert found["ada"].recent == pytest.approx(2.0 * 0.5 ** (25 / 24))
    assert found[""].recent == pytest.approx(2.0)
    assert use.of_users(2 * DAY)["ada"].gpu_hours == 2.0


def test_peaks_of_finished_attempts_are_known(use: GpuUse, clock: Clock) -> None:
    worked(use, clock, "r1", 60, Use(peak_memory=30))
    worked(use, clock, "r2", 60, Use(peak_memory=40), gpus=1)
    worked(use, clock, "r3", 60)
    assert use.peaks("toy v1") == [ObservedPeak(40, 1, 4), ObservedPeak(30, 2, 4)]
    assert use.peaks("other") == []


def test_work_without_gpus_uses_none(use: GpuUse, clock: Clock) -> None:
    worked(use, clock, "r", HOUR, gpus=0)
    assert use.by_run(NOW)[0].gpu_hours == 0.0
    assert use.of_users(DAY) == {}


def test_quotas_are_kept_changed_and_taken_away(engine: Engine) -> None:
    store = QuotaStore(engine)
    assert store.all() == Quotas()
    store.put(None, Quota(gpus=4, gpu_hours=100.0), by="root")
    store.put("ada", Quota(gpus=8))
    store.put("ada", Quota(gpu_hours=5.5))
    assert store.all() == Quotas(Quota(4, 100.0), {"ada": Quota(None, 5.5)})
    store.remove("ada")
    assert store.all().of("ada") == Quota(4, 100.0)
    store.remove(None)
    assert store.all() == Quotas()
    with pytest.raises(NotFoundError, match="ada has no quota"):
        store.remove("ada")


@pytest.mark.parametrize("quota", [Quota(gpus=-1), Quota(gpu_hours=-0.5), Quota(gpu_hours=float("nan"))])
def test_a_quota_below_nothing_is_refused(engine: Engine, quota: Quota) -> None:
    with pytest.raises(InvalidRequestError, match="a number from 0 on"):
        QuotaStore(engine).put("ada", quota)
    assert QuotaStore(engine).all() == Quotas()


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def admin(engine: Engine, clock: Clock, empty_valkey: str) -> BoxAdmin:
    return BoxAdmin(engine, FleetView(empty_valkey), FleetOrders(empty_valkey), clock=clock)


def test_an_admins_word_is_kept_and_shown(admin: BoxAdmin, connection: redis.Redis) -> None:
    announce(connection, "a")
    admin.pause("a", by="root", reason="new disk")
    word = admin.states()["a"]
    assert (word.state, word.reason, word.changed_by, word.changed_at) == ("paused", "new disk", "root", NOW)
    assert connection.hgetall(BOX_STATE_KEY) == {"a": "paused"}
    admin.drain("a")
    assert (admin.states()["a"].state, connection.hgetall(BOX_STATE_KEY)) == ("drained", {"a": "drained"})
    admin.resume("a")
    assert (admin.states(), connection.hgetall(BOX_STATE_KEY)) == ({}, {})


def test_only_a_box_that_is_away_is_forgotten(admin: BoxAdmin, connection: redis.Redis) -> None:
    report = announce(connection, "a")
    connection.hset(KNOWN_BOXES_KEY, "a", known_json(report, float(connection.time()[0])))
    admin.pause("a")
    with pytest.raises(ConflictError, match="is connected"):
        admin.forget("a")
    connection.delete(box_key("a"))
    admin.forget("a")
    assert (admin.states(), connection.hgetall(KNOWN_BOXES_KEY)) == ({}, {})


@pytest.mark.parametrize("word", ["pause", "drain", "resume", "forget"])
def test_a_box_that_nobody_knows_is_named(admin: BoxAdmin, connection: redis.Redis, word: str) -> None:
    announce(connection, "here")
    with pytest.raises(NotFoundError, match="no box is called 'there'; there are here"):
        getattr(admin, word)("there")


def test_without_the_queue_server_nothing_is_changed(engine: Engine, tmp_path: Any) -> None:
    nowhere = f"unix://{tmp_path}/nobody.sock"
    admin = BoxAdmin(engine, FleetView(nowhere), FleetOrders(nowhere))
    with pytest.raises(UnavailableError):
        admin.drain("a")
    assert admin.states() == {}


def test_a_reason_has_an_end(admin: BoxAdmin, connection: redis.Redis) -> None:
    announce(connection, "a")
    with pytest.raises(InvalidRequestError, match="at most 500"):
        admin.pause("a", reason="x" * 501)
