"""The server's scheduler on a real queue server: its plans, and what boxes then claim by the real scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from fleet_boxes import announce, open_claims
from waiting_job import waiting

from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.fetch_orders import FetchOrders
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.lifecycle import Claim as ToldClaim
from mlflow_lmms.planner.fleet import Cause, FleetState, Job, Plan, Quota
from mlflow_lmms.prefetch import FetchNeeds, Prefetch
from mlflow_lmms.queue_keys import (
    FENCE_KEY,
    KNOWN_BOXES_KEY,
    PLAN_AT_KEY,
    PLAN_STARTS_KEY,
    RESERVATION_KEY,
    GpuReport,
    box_key,
    known_json,
)
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.scheduler import Scheduler
from mlflow_lmms.services import Services
from mlflow_lmms.spreading import Spreading
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import PROTOCOL
from worker.leases import Claim, LeaseBook, Slot

HOUR = 3600.0


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """A scheduler whose clock the test moves, and the hands of boxes."""

    def __init__(self, services: Services, url: str) -> None:
        self.services = services
        self.redis: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        self.book = LeaseBook(redis.Redis.from_url(url), 60.0)
        self.clock = Clock()
        self.orders = FleetOrders(url)
        self.scheduler = self.another()
        open_claims(self.redis)

    def another(self, store: EvaluationStore | None = None) -> Scheduler:
        """A scheduler as a further server process has one."""
        core = self.services
        demands = core.lifecycle._job_of.__self__  # type: ignore[attr-defined]
        return Scheduler(
            store=store or core.store,
            queue=core.queue,
            fleet=core.fleet,
            orders=self.orders,
            box_admin=core.box_admin,
            quotas=core.quotas,
            use=core.gpu_use,
            spreading=Spreading(core.store, core.queue, demands, core.settings),
            prefetch=Prefetch(
                FetchOrders(core.settings.redis_address), FetchNeeds(core.store, core.catalogue), core.settings
            ),
            lifecycle=core.lifecycle,
            settings=core.settings,
            clock=self.clock,
        )

    def enqueue(self, *jobs: Job) -> None:
        for job in jobs:
            assert self.services.queue.enqueue(job)

    def tick(self, later: float = 0.1) -> list[str]:
        self.clock.now += later
        return self.scheduler.tick()

    def claim(self, box: str, *, gpus: bool = True) -> Claim | None:
        return self.book.claim(Slot(box, f"{box}.x", gpus))

    def claims(self, *boxes: str) -> dict[str, Claim]:
        """All that boxes get, each until it gets no more."""
        found = {}
        for box in boxes:
            while claim := self.claim(box):
                found[claim.job_id] = claim
        return found

    def number(self, key: str) -> float:
        answer: Any = self.redis.get(key)
        return float(answer or 0)

    def release(self, claim: Claim) -> None:
        self.book.finish(claim)
        self.book.release(claim.job_id, claim.token)


@pytest.fixture
def fleet(services: Services, empty_valkey: str) -> Iterator[Fleet]:
    made = Fleet(services, empty_valkey)
    yield made
    made.redis.close()


def test_jobs_start_in_the_order_of_the_plan_not_of_the_queue(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    now = time.time()
    # A whole day of waiting is worth more than a level of priority.
    fleet.enqueue(waiting("young", gpus=1), waiting("old", gpus=1, queued_at=now - 24 * HOUR))
    fleet.enqueue(waiting("urgent", gpus=1, priority="high"))
    order = []
    for _ in range(3):
        fleet.tick()
        (claim,) = fleet.claims("a").values()
        order.append(claim.job_id)
        fleet.release(claim)
    assert order == ["old-p0", "urgent-p0", "young-p0"]


def test_gpus_are_kept_for_the_job_whose_turn_it_is(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g1", "g2"])
    fleet.enqueue(waiting("runs", gpus=1, estimated_s=HOUR))
    fleet.tick()
    (runs,) = fleet.claims("a").values()
    fleet.enqueue(waiting("big", gpus=2, queued_at=time.time() - 600), waiting("long", gpus=1, estimated_s=2 * HOUR))
    fleet.tick()
    assert fleet.claims("a") == {}
    assert {job: wait.cause for job, wait in fleet.services.fleet.waits().items()} == {
        "big-p0": Cause.NEXT,
        "long-p0": Cause.RESERVED_FOR_OTHER,
    }
    kept = fleet.services.fleet.reservation()
    assert kept is not None
    fleet.enqueue(waiting("short", gpus=1, estimated_s=60.0))
    fleet.tick(2)
    (short,) = fleet.claims("a").values()
    assert short.job_id == "short-p0"
    again = fleet.services.fleet.reservation()
    assert again is not None
    assert (again.job, again.since, again.drain_at) == ("big-p0", kept.since, kept.drain_at)
    for claim in (runs, short):
        fleet.release(claim)
    fleet.tick()
    assert set(fleet.claims("a")) == {"big-p0"}
    fleet.tick()
    later = fleet.services.fleet.reservation()
    assert later is None or later.job != "big-p0"


def test_a_box_that_an_admin_closed_gets_nothing(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    fleet.enqueue(waiting("r", gpus=1))
    fleet.services.box_admin.drain("a", by="root", reason="new disk")
    fleet.tick()
    assert fleet.claims("a") == {}
    wait = fleet.services.fleet.waits()["r-p0"]
    assert wait.cause is Cause.BOXES_CLOSED and "is drained" in wait.reason
    fleet.services.box_admin.resume("a")
    fleet.tick()
    assert set(fleet.claims("a")) == {"r-p0"}


def test_an_admins_word_is_shown_again_when_the_queue_server_forgot_it(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    fleet.services.box_admin.pause("a")
    fleet.redis.flushall()
    announce(fleet.redis, "a", ["g"])
    fleet.tick()
    assert fleet.services.fleet.states() == {"a": "paused"}


def test_without_a_fresh_plan_boxes_take_what_fits(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    fleet.services.quotas.put("ada", Quota(gpus=0))
    fleet.enqueue(waiting("r", gpus=1))
    fleet.tick()
    assert fleet.claims("a") == {}
    assert "ada may have 0" in fleet.services.fleet.waits()["r-p0"].reason
    fleet.redis.set(PLAN_AT_KEY, time.time() - 11)
    assert set(fleet.claims("a")) == {"r-p0"}


def test_a_plan_stays_fresh_while_nothing_changes(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    fleet.tick()
    first = fleet.number(PLAN_AT_KEY)
    fleet.tick(2)
    assert fleet.number(PLAN_AT_KEY) > first > 0
    fleet.services.quotas.put(None, Quota(gpus=0))
    fleet.enqueue(waiting("r", gpus=1))
    assert fleet.claims("a") == {}, "the first job of an empty queue waits for a plan too"


def test_a_plan_is_made_when_something_changed_and_now_and_then(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Plan] = []
    publish = fleet.orders.publish

    def noted(plan: Plan, at: float, *, with_waits: bool = True) -> None:
        made.append(plan)
        publish(plan, at, with_waits=with_waits)

    monkeypatch.setattr(fleet.orders, "publish", noted)
    announce(fleet.redis, "a", ["g"])
    fleet.enqueue(waiting("r", gpus=2))
    fleet.tick()
    fleet.tick(1)
    fleet.tick(1)
    assert len(made) == 1
    fleet.enqueue(waiting("s", gpus=2))
    fleet.tick(1)
    assert len(made) == 2
    fleet.services.queue.update_needs([waiting("s", gpus=1)])
    fleet.tick(0.5)
    assert [start.job for start in made[-1].starts] == ["s-p0"]
    fleet.tick(5)
    assert len(made) == 4


def test_a_user_gets_no_more_gpus_than_the_quota(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g1", "g2", "g3"])
    fleet.services.quotas.put(None, Quota(gpus=1))
    fleet.services.quotas.put("eve", Quota(gpus=2))
    fleet.enqueue(*(waiting(f"{user}{n}", gpus=1, user=user) for user in ("ada", "eve") for n in range(3)))
    fleet.tick()
    claims = fleet.claims("a")
    assert sorted(job[:3] for job in claims) == ["ada", "eve", "eve"]
    assert {wait.cause for wait in fleet.services.fleet.waits().values()} == {Cause.QUOTA}


def test_two_servers_have_one_leader(fleet: Fleet) -> None:
    other = fleet.another(EvaluationStore(fleet.services.store.engine, clock=lambda: time.time() + 60))
    announce(fleet.redis, "a", ["g"])
    fleet.enqueue(waiting("r", gpus=1))
    fleet.tick()
    at = fleet.redis.get(PLAN_AT_KEY)
    second = fleet.another()
    assert second.tick() == []
    assert fleet.redis.get(PLAN_AT_KEY) == at, "only the leader writes"
    other.tick()  # a minute later the first has not been heard of
    assert fleet.redis.get(PLAN_AT_KEY) != at
    at = fleet.redis.get(PLAN_AT_KEY)
    fleet.tick(2)
    assert fleet.redis.get(PLAN_AT_KEY) == at, "the former leader has noticed"


def submit(fleet: Fleet, tasks: str = "ai2d", **fields: Any) -> str:
    told = {"adapter": "dummy", "tasks": tasks, "gpus": 1, **fields}
    return fleet.services.submission.submit(EvaluationRequest.parse(told)).run_id


def test_what_can_never_run_fails_after_a_while(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    run_id = submit(fleet, gpus=4)
    assert fleet.tick() == []
    fleet.tick(590)
    assert fleet.services.store.get(run_id).state is State.QUEUED
    (line,) = fleet.tick(20)
    assert "can never run" in line
    task = fleet.services.store.get(run_id).task("ai2d")
    assert (task.state, task.failure) == (State.FAILED, FailureClass.BAD_REQUEST)
    assert task.message is not None and "it needs 4 GPUs on one box, and the most that a box has is 1" in task.message
    assert fleet.services.queue.queued() == []
    assert fleet.services.client.get_run(run_id).info.status == "FAILED"


@pytest.mark.parametrize("state", ["away", "paused", "drained"])
def test_a_box_that_takes_no_work_now_is_hope(fleet: Fleet, state: str) -> None:
    announce(fleet.redis, "a", ["g"])
    report = announce(fleet.redis, "large", ["h1", "h2", "h3", "h4"])
    if state == "away":
        fleet.redis.hset(KNOWN_BOXES_KEY, "large", known_json(report, time.time() - 7 * 24 * HOUR))
        fleet.redis.delete(box_key("large"))
    else:
        getattr(fleet.services.box_admin, state.removesuffix("ed").replace("paus", "pause"))("large")
    run_id = submit(fleet, gpus=4)
    for _ in range(3):
        assert fleet.tick(1000) == []
    assert fleet.services.store.get(run_id).state is State.QUEUED
    assert fleet.services.fleet.waits()[f"{run_id}-0"].cause is Cause.BOXES_CLOSED


def test_a_box_that_joins_in_time_starts_the_grace_anew(fleet: Fleet) -> None:
    run_id = submit(fleet, gpus=2)
    for _ in range(3):
        assert fleet.tick(1000) == [], "no box at all is no reason to fail"
    announce(fleet.redis, "a", ["g"])
    fleet.tick(6)
    fleet.tick(500)
    announce(fleet.redis, "b", ["h", "i"])
    fleet.tick(6)
    fleet.redis.delete(box_key("b"))
    assert fleet.tick(500) == []
    assert fleet.services.store.get(run_id).state is State.QUEUED


def test_a_run_is_spread_over_idle_places(fleet: Fleet) -> None:
    for box in "abc":
        announce(fleet.redis, box, [f"{box}1"])
    run_id = submit(fleet, tasks="ai2d,mmmu_val,mme,pope,chartqa,docvqa_val")
    (line,) = fleet.tick()
    assert "spread over 3 places" in line
    assert fleet.tick() == []
    evaluation = fleet.services.store.get(run_id)
    assert [len(evaluation.tasks_of(part.part)) for part in evaluation.parts] == [2, 2, 2]
    claims = fleet.claims("a", "b", "c")
    assert len(claims) == 3 and len({claim.box for claim in claims.values()}) == 3
    for claim in claims.values():
        order = fleet.services.lifecycle.claim(_claim(claim))
        assert len(order.tasks) == 2 and len(order.all_tasks) == 6
    assert fleet.services.store.get(run_id).state is State.STARTING


def test_boxes_without_the_files_count_as_idle_places_too(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for box in "ab":
        announce(fleet.redis, box, [f"{box}1"])

    def hold(state: FleetState, caches: Any, now: float) -> Any:
        jobs = tuple(replace(job, boxes=frozenset({"a"})) for job in state.jobs)
        return SimpleNamespace(state=replace(state, jobs=jobs), waits=(), told=lambda waits: waits)

    monkeypatch.setattr(fleet.scheduler._prefetch, "hold", hold)
    submit(fleet, tasks="ai2d,mmmu_val,mme,pope")
    (line,) = fleet.tick()
    assert "spread over 2 places" in line


def _claim(claim: Claim) -> Any:
    run_id, _, part = claim.job_id.partition("-")
    held = {"token": claim.token, "box": claim.box, "slot": claim.slot, "gpus": claim.gpus}
    return ToldClaim(protocol=PROTOCOL, run_id=run_id, part=part, **held)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [({"max_parts": 2}, 2), ({"max_parts": 1}, 1), ({"limit": 2}, 1), ({}, 3)],
    ids=["two at most", "one", "so short that loading would be most of it", "as many as are idle"],
)
def test_how_far_a_run_is_spread(fleet: Fleet, fields: dict[str, Any], parts: int) -> None:
    announce(fleet.redis, "a", ["g1", "g2", "g3"])
    run_id = submit(fleet, tasks="ai2d,mmmu_val,mme", **fields)
    fleet.tick()
    fleet.tick()
    assert len(fleet.services.store.get(run_id).parts) == parts


def test_places_that_another_job_can_use_are_no_idle_ones(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g1", "g2"])
    run_id = submit(fleet, tasks="ai2d,mmmu_val,mme")
    fleet.enqueue(waiting("other", gpus=1))
    assert fleet.tick() == []
    assert set(fleet.claims("a")) == {f"{run_id}-0", "other-p0"}


def test_a_queue_server_that_lost_all_is_filled_again(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g1", "g2"])
    submit(fleet, gpus=1)
    fleet.tick()
    (claim,) = fleet.claims("a").values()
    fleet.services.lifecycle.claim(_claim(claim))
    asked: dict[str, Any] = {
        "gpu_memory_gb": 30,
        "gpu_type": "A100",
        "labels": ["fast"],
        "box": "a",
        "priority": "high",
    }
    run_id = submit(fleet, gpus=1, **asked)
    (before,) = fleet.services.fleet.jobs()
    fleet.tick(2)
    fleet.redis.flushall()
    fleet.services.reaper.tick()
    after = {job.id: job for job in fleet.services.fleet.jobs()}
    assert after[f"{run_id}-0"] == before
    assert (before.memory, before.gpu_type, before.labels, before.box) == (
        30 * 10**9,
        "A100",
        frozenset({"fast"}),
        "a",
    )
    fleet.tick(2)
    assert fleet.number(FENCE_KEY) > claim.token + 500
    assert fleet.services.fleet.waits()[f"{run_id}-0"].cause is not None


def test_a_new_leader_gives_out_no_token_twice(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g1"])
    submit(fleet)
    fleet.redis.set(FENCE_KEY, 700)
    fleet.tick()
    (claim,) = fleet.claims("a").values()
    fleet.services.lifecycle.claim(_claim(claim))
    fleet.redis.set(FENCE_KEY, 3)
    fleet.another(EvaluationStore(fleet.services.store.engine, clock=lambda: time.time() + 60)).tick()
    assert fleet.services.queue.next_token() > claim.token == 701


def test_an_empty_queue_leaves_no_plan_behind(fleet: Fleet) -> None:
    announce(fleet.redis, "a", ["g"])
    fleet.enqueue(waiting("r", gpus=1), waiting("s", gpus=1))
    fleet.tick()
    for _ in range(2):
        for claim in fleet.claims("a").values():
            fleet.release(claim)
        fleet.tick()
    assert fleet.redis.exists(PLAN_STARTS_KEY, RESERVATION_KEY) == 0
    assert fleet.services.fleet.waits() == {}


PARTS: dict[str, Callable[[Job], Job]] = {
    "labels": lambda job: replace(job, labels=frozenset({"fast"})),
    "gpu type": lambda job: replace(job, gpu_type="H100"),
    "box": lambda job: replace(job, box="b"),
    "environment": lambda job: replace(job, environment="vllm"),
    "memory": lambda job: replace(job, memory=100 << 30, least_memory=90 << 30),
}


@pytest.mark.parametrize("asked", PARTS)
def test_a_job_goes_only_to_a_box_that_has_what_it_asks_for(fleet: Fleet, asked: str) -> None:
    announce(fleet.redis, "a", ["g"])
    gpu = GpuReport("h", "NVIDIA H100 NVL", 94 << 30)
    announce(fleet.redis, "b", [gpu], labels=frozenset({"fast", "eu"}), environments=frozenset({"vllm"}))
    fleet.enqueue(PARTS[asked](waiting("r", gpus=1)))
    fleet.tick()
    assert fleet.claims("a") == {}
    assert set(fleet.claims("b")) == {"r-p0"}
