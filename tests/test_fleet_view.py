"""The fleet as the server reads it from Redis, on a real queue server; the thread that plans and what wakes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from fleet_boxes import announce
from waiting_job import waiting

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.planner.fleet import BoxState, Cause, Plan, Quotas, Reservation, Start, Wait
from mlflow_lmms.queue_keys import (
    KNOWN_BOXES_KEY,
    LEASES_KEY,
    PLAN_AT_KEY,
    PLAN_STARTS_KEY,
    RESERVATION_KEY,
    WAITS_KEY,
    WAKE_CHANNEL,
    GpuReport,
    known_json,
    lease_key,
    need_key,
    quarantine_key,
    start_from_json,
)
from mlflow_lmms.wakes import Wakes
from plugin_ui.scheduler_thread import SchedulerThread


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def view(empty_valkey: str) -> FleetView:
    return FleetView(empty_valkey)


def test_a_box_is_in_the_state_that_weighs_most(view: FleetView, connection: redis.Redis) -> None:
    announce(connection, "open")
    announce(connection, "leaves", state="draining")
    announce(connection, "drained", state="draining")
    announce(connection, "paused")
    away = announce(connection, "away")
    connection.delete("lmms:box:away")
    connection.hset(KNOWN_BOXES_KEY, "away", known_json(away, view.now() - 1e6))
    connection.hset(KNOWN_BOXES_KEY, "long gone", known_json(away, view.now() - 31 * 24 * 3600))
    said = {"drained": "drained", "paused": "paused", "away": "drained"}
    assert {box.name: box.state for box in view.planned_boxes(said)} == {
        "open": BoxState.OPEN,
        "leaves": BoxState.PAUSED,
        "drained": BoxState.DRAINED,
        "paused": BoxState.PAUSED,
        "away": BoxState.OFFLINE,
    }


def test_a_box_of_an_old_version_or_a_bare_one_is_no_error(view: FleetView, connection: redis.Redis) -> None:
    connection.hset("lmms:box:b", mapping={"box": "b", "gpus": '[{"uuid": "g"}]', "surprise": "1"})
    (report,) = view.boxes()
    assert (report.box, report.gpus, report.cpu_slots) == ("b", (GpuReport("g", ""),), 0)


def test_a_damaged_entry_is_left_out_and_hides_no_other(view: FleetView, connection: redis.Redis) -> None:
    announce(connection, "sound")
    connection.hset("lmms:box:bad", mapping={"box": "bad", "gpus": "{"})
    connection.hset(KNOWN_BOXES_KEY, mapping={"bad": "[]", "worse": "{"})
    connection.hset(need_key("bad-0"), mapping={"run": "bad", "gpus": "many"})
    connection.rpush("rq:queue:lmms-normal", "bad-0")
    connection.hset(WAITS_KEY, mapping={"bad-0": "null", "sound-0": '{"cause": "gpus", "reason": "r"}'})
    connection.set(RESERVATION_KEY, '{"surprise": 1}')
    connection.hset(lease_key("bad-1"), mapping={"box": "a", "gpus": "{", "token": "x"})
    connection.zadd(LEASES_KEY, {"bad-1": view.now() + 60})
    state = view.state(Quotas(), {})
    assert [box.name for box in state.boxes] == ["sound"]
    assert (state.jobs, state.leases, state.reservation) == ((), (), None)
    assert "bad-0" not in view.waits()


def test_a_gpu_in_quarantine_is_of_no_use(view: FleetView, connection: redis.Redis) -> None:
    announce(connection, "a", ["g1", "g2"])
    connection.set(quarantine_key("g2"), 1, ex=60)
    assert [gpu.usable for gpu in view.planned_boxes({})[0].gpus] == [True, False]


def test_leases_that_hold_gpus_count_until_they_are_swept(view: FleetView, connection: redis.Redis) -> None:
    for job, score, delivering in (("run-out", -60, ""), ("held-0", 60, ""), ("brings-0", 60, "1")):
        fields: dict[Any, Any] = {"box": "a", "slot": "a.x", "gpus": '["g"]', "token": 1, "user": "ada"}
        connection.hset(lease_key(job), mapping={**fields, "memory": "5", "since": 9.5, "delivering": delivering})
        connection.zadd(LEASES_KEY, {job: view.now() + score})
    leases = view.state(Quotas(), {}).leases
    assert {(lease.job, lease.user, lease.memory, lease.started_at) for lease in leases} == {
        ("run-out", "ada", 5, 9.5),
        ("held-0", "ada", 5, 9.5),
    }
    assert set(view.leases()) == {"run-out", "held-0", "brings-0"}


def test_needs_are_read_again_when_they_changed(view: FleetView, connection: redis.Redis, empty_valkey: str) -> None:
    queue = EvaluationQueue(empty_valkey)
    first, second = waiting("a", gpus=1), waiting("b", priority="high")
    queue.enqueue(first)
    queue.enqueue(second)
    assert view.jobs() == (second, first)
    connection.hset(need_key("a-p0"), "gpus", "7")  # by nobody who counts: what was read is kept
    assert view.jobs() == (second, first)
    queue.remove("b", "p0")
    assert view.jobs() == (first,)
    queue.update_needs([waiting("a", gpus=3)])
    assert [job.gpus for job in view.jobs()] == [3]
    connection.delete(need_key("a-p0"))
    queue.enqueue(second)
    assert view.jobs() == (second,), "a job without needs is left to the reaper"


def test_a_plan_replaces_the_one_before(view: FleetView, connection: redis.Redis, empty_valkey: str) -> None:
    orders = FleetOrders(empty_valkey)
    kept = Reservation("c-0", "a", ("g1", "g2"), 1.0, 2.0, 3.0)
    start, wait = Start("b-0", "a", ("g3",), 10), Wait("c-0", Cause.NEXT, "is next")
    orders.publish(Plan((start,), kept, (wait,)), 5.5)
    told: Any = connection.hgetall(PLAN_STARTS_KEY)
    assert {job: start_from_json(job, text) for job, text in told.items()} == {"b-0": start}
    assert (view.reservation(), view.waits(), connection.get(PLAN_AT_KEY)) == (kept, {"c-0": wait}, "5.5")
    orders.publish(Plan((), None, ()), 6.5, with_waits=False)
    assert (view.reservation(), view.waits(), connection.get(PLAN_AT_KEY)) == (None, {"c-0": wait}, "6.5")
    orders.publish(Plan((), None, ()), 7.5)
    assert (view.waits(), connection.exists(PLAN_STARTS_KEY)) == ({}, 0)


CALLS: dict[str, Callable[[str], Any]] = {
    "now": lambda url: FleetView(url).now(),
    "boxes": lambda url: FleetView(url).boxes(),
    "known": lambda url: FleetView(url).known(),
    "states": lambda url: FleetView(url).states(),
    "leases": lambda url: FleetView(url).leases(),
    "reservation": lambda url: FleetView(url).reservation(),
    "waits": lambda url: FleetView(url).waits(),
    "jobs": lambda url: FleetView(url).jobs(),
    "state": lambda url: FleetView(url).state(Quotas(), {}),
    "publish": lambda url: FleetOrders(url).publish(Plan((), None, ()), 1.0),
    "keep_fresh": lambda url: FleetOrders(url).keep_fresh(),
    "show_states": lambda url: FleetOrders(url).show_states({}),
    "forget": lambda url: FleetOrders(url).forget("a"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_absent_queue_server_is_named(tmp_path: Any, call: str) -> None:
    with pytest.raises(UnavailableError, match="MLFLOW_LMMS_REDIS_URL"):
        CALLS[call](f"unix://{tmp_path}/nobody.sock")


def test_words_are_heard_at_once_and_plans_are_no_news(connection: redis.Redis, empty_valkey: str) -> None:
    wakes = Wakes(empty_valkey)
    assert not wakes.wait(0.0)
    connection.publish(WAKE_CHANNEL, "plan")
    assert not wakes.wait(0.3)
    for word in ("a-0", "plan", "b-0"):
        connection.publish(WAKE_CHANNEL, word)
    began = time.monotonic()
    assert wakes.wait(30.0)
    assert time.monotonic() - began < 10
    assert not wakes.wait(0.0), "all words of before were heard"
    wakes.close()


def test_without_a_queue_server_waiting_is_just_time(tmp_path: Any) -> None:
    wakes = Wakes(f"unix://{tmp_path}/nobody.sock")
    began = time.monotonic()
    assert not wakes.wait(0.2)
    assert time.monotonic() - began >= 0.2


def test_the_thread_plans_when_woken_and_outlives_failures(connection: redis.Redis, empty_valkey: str) -> None:
    ticks, failed = threading.Semaphore(0), threading.Event()

    def tick() -> list[str]:
        ticks.release()
        if not failed.is_set():
            failed.set()
            raise UnavailableError("the queue server does not answer")
        return ["something was done"]

    thread = SchedulerThread(tick, Wakes(empty_valkey), period_s=0.05)
    thread.start()
    assert all(ticks.acquire(timeout=20) for _ in range(3))
    thread.stop()
    woken = SchedulerThread(tick, Wakes(empty_valkey), period_s=30.0)
    woken.start()
    for _ in range(2):
        until = time.monotonic() + 20
        while not ticks.acquire(timeout=0.2):
            assert time.monotonic() < until, "no word woke the thread"
            connection.publish(WAKE_CHANNEL, "a-0")
    woken.stop()
    connection.publish(WAKE_CHANNEL, "a-0")
