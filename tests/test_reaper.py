"""The reaper on real tables, MLflow and queue server: lost work comes back, and everything follows the tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fleet_boxes import announce, open_claims

from mlflow_lmms.errors import StaleTokenError, UnavailableError
from mlflow_lmms.evaluation_queue import LEASES_KEY, job_id
from mlflow_lmms.lifecycle import Claim, Lifecycle, Owner
from mlflow_lmms.names import Tag
from mlflow_lmms.reaper import Reaper
from mlflow_lmms.redis_server import EmbeddedRedis
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.retry_budget import LIMITS, Budget
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.services import Services
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import PROTOCOL
from worker import leases
from worker.leases import LeaseBook, Slot

SLOT = Slot("box", "box.cpu0")


class Clock:
    """The time, which the test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Services with a clock and a worker's lease book."""

    def __init__(self, services: Services, redis_url: str) -> None:
        self.services = services
        self.clock = Clock()
        services.store._now = self.clock
        self.redis = redis.Redis.from_url(redis_url)
        self.book = LeaseBook(self.redis, services.settings.lease_ttl_s)
        self.reaper = self.new_reaper()

    def new_reaper(self, lifecycle: Lifecycle | None = None) -> Reaper:
        mirror = RunMirror(self.services.client)
        lifecycle = lifecycle or self.services.lifecycle
        return Reaper(self.services.store, lifecycle, mirror, self.services.settings, clock=self.clock)

    def submit(self, *tasks: str, **fields: Any) -> str:
        request = EvaluationRequest.parse({"adapter": "dummy", "tasks": tasks or ("ai2d",), **fields})
        return self.services.submission.submit(request).run_id

    def work(self) -> tuple[leases.Claim, Owner]:
        """Lease the next job and claim its part, as a worker does."""
        announce(self.redis, SLOT.box)
        open_claims(self.redis)
        lease = self.book.claim(SLOT)
        assert lease is not None, "a job waits in the queue"
        run_id, _, part = lease.job_id.partition("-")
        self.services.lifecycle.claim(
            Claim(protocol=PROTOCOL, run_id=run_id, part=part, token=lease.token, box="box", slot="box.cpu0")
        )
        return lease, Owner(run_id, part, lease.token)

    def kill(self, lease: leases.Claim) -> None:
        """Let a lease run out, as that of a dead worker does, and sweep it as the box's supervisor would."""
        self.redis.zadd(LEASES_KEY, {lease.job_id: 1.0})

    def pass_patience(self) -> list[str]:
        """Tick, let the time pass that a lease may be missing, tick again."""
        done = self.reaper.tick()
        self.clock.now += self.services.settings.lease_ttl_s / 5 + 0.1
        return done + self.reaper.tick()

    def state(self, run_id: str) -> State:
        return self.services.store.get(run_id).state


@pytest.fixture
def world(services: Services, empty_valkey: str) -> Iterator[World]:
    made = World(services, empty_valkey)
    yield made
    made.redis.close()


def test_nothing_is_done_where_all_is_well(world: World) -> None:
    world.submit()
    _, owner = world.work()
    world.services.lifecycle.started(owner, "ai2d")
    world.submit()
    assert world.pass_patience() == []
    world.clock.now += 3600
    assert world.reaper.tick() == []


def test_a_lost_workers_part_is_queued_again_at_the_front(world: World) -> None:
    run_id = world.submit()
    lease, owner = world.work()
    world.services.lifecycle.started(owner, "ai2d")
    waiting = world.submit()
    world.kill(lease)
    assert world.reaper.tick() == []
    assert world.state(run_id) == State.RUNNING
    world.clock.now += world.services.settings.lease_ttl_s / 5 + 0.1
    assert world.reaper.tick() == [f"{run_id}: part 0 lost its worker box/box.cpu0"]
    task = world.services.store.get(run_id).task("ai2d")
    assert (task.state, task.attempt, task.failure) == (State.QUEUED, 2, FailureClass.WORKER_LOST)
    assert "on box box, was lost" in (task.message or "")
    world.book.release(lease.job_id, lease.token)  # the sweep of the box
    world.reaper.tick()
    assert world.services.queue.queued() == [job_id(run_id, "0"), job_id(waiting, "0")]
    assert world.services.client.get_run(run_id).info.status == "SCHEDULED"


def test_a_worker_lost_with_its_lease_is_queued_again_in_one_tick(world: World) -> None:
    run_id = world.submit()
    lease, _ = world.work()
    world.book.finish(lease)
    world.book.release(lease.job_id, lease.token)
    assert world.pass_patience() == [f"{run_id}: part 0 lost its worker box/box.cpu0"]
    assert world.services.queue.queued() == [job_id(run_id, "0")]


def test_a_worker_that_still_speaks_is_not_lost(world: World) -> None:
    run_id = world.submit()
    lease, owner = world.work()
    world.kill(lease)
    world.reaper.tick()
    world.clock.now += world.services.settings.lease_ttl_s / 5 + 0.1
    world.services.lifecycle.heartbeat(owner)
    assert world.reaper.tick() == []
    assert world.state(run_id) == State.STARTING


def test_a_lease_that_comes_back_in_time_counts(world: World) -> None:
    run_id = world.submit()
    lease, _ = world.work()
    world.redis.delete(LEASES_KEY, f"lmms:lease:{lease.job_id}")
    world.reaper.tick()
    assert world.book.renew(lease)
    world.clock.now += 60
    assert world.pass_patience() == []
    assert world.state(run_id) == State.STARTING


def test_a_lease_of_somebody_else_does_not_count(world: World) -> None:
    run_id = world.submit()
    lease, _ = world.work()
    world.redis.hset(f"lmms:lease:{lease.job_id}", "token", lease.token + 1)
    assert world.pass_patience() == [f"{run_id}: part 0 lost its worker box/box.cpu0"]


def test_a_task_fails_when_its_workers_were_lost_too_often(world: World) -> None:
    run_id = world.submit()
    for attempt in range(1, LIMITS[Budget.WORKER_LOST] + 2):
        lease, owner = world.work()
        assert world.services.store.get(run_id).task("ai2d").attempt == attempt
        world.services.lifecycle.started(owner, "ai2d")
        world.book.release(lease.job_id, lease.token)
        world.clock.now += 60
        world.pass_patience()
    task = world.services.store.get(run_id).task("ai2d")
    assert (task.state, task.failure) == (State.FAILED, FailureClass.WORKER_LOST)
    assert f"lost {LIMITS[Budget.WORKER_LOST] + 1} times" in (task.message or "")
    run = world.services.client.get_run(run_id)
    assert (run.info.status, run.data.tags[Tag.FAILURE]) == ("FAILED", "worker_lost")


def test_a_finished_task_is_not_lost_with_its_worker(world: World) -> None:
    run_id = world.submit("mmmu_val", "ai2d")
    lease, owner = world.work()
    world.services.lifecycle.started(owner, "mmmu_val")
    world.services.lifecycle.recording(owner, "mmmu_val")
    world.services.lifecycle.task_finished(owner, "mmmu_val", samples=1, metric="m", score=1.0)
    world.book.release(lease.job_id, lease.token)
    world.pass_patience()
    states = [(task.state, task.attempt) for task in world.services.store.get(run_id).tasks]
    assert states == [(State.FINISHED, 1), (State.QUEUED, 2)]


def test_a_cancelled_run_whose_worker_is_lost_ends(world: World) -> None:
    run_id = world.submit()
    lease, _ = world.work()
    world.services.lifecycle.cancel(run_id)
    world.kill(lease)
    world.pass_patience()
    assert world.state(run_id) == State.CANCELLED
    assert world.services.client.get_run(run_id).info.status == "KILLED"


def test_a_cancel_that_the_server_died_over_is_finished(world: World) -> None:
    run_id = world.submit()
    world.services.store.request_cancel(run_id)
    world.services.queue.remove(run_id, "0")
    assert world.reaper.tick() == [f"{run_id}: cancelled"]
    assert world.state(run_id) == State.CANCELLED


def test_what_the_queue_server_forgot_is_queued_again(world: World) -> None:
    waiting = world.submit(priority="high")
    lost, also_waiting = world.submit(), world.submit(priority="low")
    world.redis.flushall()
    done = world.reaper.tick()
    assert sorted(done) == sorted(f"{run_id}: part 0 is queued again" for run_id in (waiting, lost, also_waiting))
    assert world.services.queue.queued() == [job_id(run_id, "0") for run_id in (waiting, lost, also_waiting)]
    assert world.reaper.tick() == []
    assert world.work()[1].run_id == waiting


def test_running_work_survives_a_queue_server_that_forgot_everything(world: World) -> None:
    run_id = world.submit()
    lease, owner = world.work()
    world.services.lifecycle.started(owner, "ai2d")
    world.clock.now += 60
    world.redis.flushall()
    assert world.reaper.tick() == []
    assert world.book.renew(lease).answer  # a worker does so every second or two
    world.clock.now += 60
    assert world.pass_patience() == []
    assert world.state(run_id) == State.RUNNING
    assert world.services.queue.queued() == []


def test_a_submission_that_died_before_its_job_was_queued_is_queued(world: World) -> None:
    run_id = world.submit()
    world.services.queue.remove(run_id, "0")
    assert world.reaper.tick() == [f"{run_id}: part 0 is queued again"]
    assert world.services.queue.queued() == [job_id(run_id, "0")]


def test_a_task_that_waits_for_its_retry_is_queued_when_its_siblings_are_done(world: World) -> None:
    run_id = world.submit("mmmu_val", "ai2d")
    lease, owner = world.work()
    world.services.lifecycle.task_failed(owner, "mmmu_val", FailureClass.UNKNOWN, "m", "", retryable=True)
    assert world.pass_patience() == []
    assert world.services.queue.queued() == []
    world.services.lifecycle.started(owner, "ai2d")
    world.services.lifecycle.recording(owner, "ai2d")
    world.services.lifecycle.task_finished(owner, "ai2d", samples=1, metric=None, score=None)
    world.services.lifecycle.part_finished(owner)
    world.book.finish(lease)
    world.book.release(lease.job_id, lease.token)
    assert world.reaper.tick() == [f"{run_id}: part 0 is queued again"]
    assert world.work()[1].run_id == run_id


@pytest.mark.parametrize("end", ["delete", "end"])
def test_a_run_that_is_deleted_or_ended_in_mlflow_is_cancelled(world: World, end: str) -> None:
    run_id = world.submit()
    _, owner = world.work()
    world.services.lifecycle.started(owner, "ai2d")
    world.reaper.tick()
    if end == "delete":
        world.services.client.delete_run(run_id)
    else:
        world.services.client.set_terminated(run_id, "KILLED")
    world.clock.now += 10
    assert world.reaper.tick() == [f"{run_id}: ended or deleted in MLflow, so cancelled"]
    assert world.services.lifecycle.heartbeat(owner) == {"cancel": True}
    world.services.lifecycle.part_finished(owner)
    assert world.state(run_id) == State.CANCELLED
    world.clock.now += 10
    assert world.reaper.tick() == []


@pytest.mark.parametrize("end", ["delete", "end"])
def test_a_waiting_run_that_is_deleted_or_ended_in_mlflow_leaves_the_queue(world: World, end: str) -> None:
    run_id = world.submit()
    if end == "delete":
        world.services.client.delete_run(run_id)
    else:
        world.services.client.set_terminated(run_id, "FAILED")
    world.reaper.tick()
    assert world.state(run_id) == State.CANCELLED
    assert world.services.queue.queued() == []
    assert world.services.store.to_mirror() == []


def test_a_run_that_is_ended_in_mlflow_while_its_worker_goes_on_is_cancelled(world: World) -> None:
    run_id = world.submit()
    _, owner = world.work()
    world.services.client.set_terminated(run_id, "KILLED")
    world.services.lifecycle.started(owner, "ai2d")
    world.services.lifecycle.recording(owner, "ai2d")
    assert world.reaper.tick() == [f"{run_id}: ended or deleted in MLflow, so cancelled"]


def test_a_retried_run_is_not_taken_for_one_that_ended(world: World) -> None:
    run_id = world.submit()
    _, owner = world.work()
    world.services.lifecycle.task_failed(owner, "ai2d", FailureClass.UNKNOWN, "m", "", retryable=False)
    assert world.services.client.get_run(run_id).info.status == "FAILED"
    world.services.store.requeue(run_id, ["ai2d"], automatic=False)  # the server dies before it tells MLflow
    world.clock.now += 10
    world.reaper.tick()
    assert world.services.client.get_run(run_id).info.status == "SCHEDULED"
    assert world.state(run_id) == State.QUEUED


def test_of_several_server_processes_one_does_the_work(world: World) -> None:
    world.submit()
    other = world.new_reaper()
    assert world.reaper.tick() == []
    world.redis.flushall()
    assert other.tick() == []
    world.clock.now += 11
    assert len(other.tick()) == 1
    assert world.reaper.tick() == []


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedRedis]:
    """A queue server of the test's own, which it may stop and start."""
    with tempfile.TemporaryDirectory(prefix="lmms-valkey-") as folder:
        server = EmbeddedRedis(Path(folder))
        server.start()
        yield server
        server.stop()


def test_nobody_is_lost_while_the_queue_server_is_away(services: Services, own_valkey: EmbeddedRedis) -> None:
    queue, events = type(services.queue)(own_valkey.url), type(services.events)(own_valkey.url)
    lifecycle = Lifecycle(
        services.store, queue, events, RunMirror(services.client), services.settings, services.scores.refresh
    )
    world = World(services, own_valkey.url)
    reaper = world.new_reaper(lifecycle)
    run_id = world.submit()
    lifecycle.enqueue(services.store.get(run_id))
    lease, owner = world.work()
    lifecycle.started(owner, "ai2d")
    own_valkey.stop()
    for _ in range(3):
        world.clock.now += 60
        with pytest.raises(UnavailableError):
            reaper.tick()
    assert world.state(run_id) == State.RUNNING
    own_valkey.start()
    assert reaper.tick() == []
    assert world.book.renew(lease)
    world.clock.now += 60
    assert reaper.tick() == []
    assert world.state(run_id) == State.RUNNING
    world.redis.close()


def test_a_newer_lease_takes_over_at_once_from_an_owner_that_is_gone(world: World) -> None:
    run_id = world.submit()
    lease, gone = world.work()
    world.services.lifecycle.started(gone, "ai2d")
    world.book.release(lease.job_id, lease.token)  # what the box does when a slot has died
    _, owner = world.work()
    assert world.services.store.get(run_id).task("ai2d").attempt == 2
    with pytest.raises(StaleTokenError):
        world.services.lifecycle.recording(gone, "ai2d")
    world.services.lifecycle.started(owner, "ai2d")
