"""What a claim follows: the published plan while it is fresh, admins, quarantines, and the pause after a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fleet_boxes import announce

from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.planner.fleet import GIB, Job, Start
from mlflow_lmms.queue_keys import (
    BOX_STATE_KEY,
    CLAIMS_FROM_KEY,
    LEASES_KEY,
    PLAN_AT_KEY,
    PLAN_FRESH_S,
    PLAN_STARTS_KEY,
    QUARANTINE_S,
    WAKE_CHANNEL,
    need_key,
    quarantine_key,
    start_json,
)
from mlflow_lmms.redis_server import EmbeddedRedis
from worker.leases import Claim, LeaseBook, Renewal, Slot

TTL_S = 15.0
GPU, CPU = Slot("one", "one.gpu0", with_gpus=True), Slot("one", "one.cpu0")
OTHER = Slot("two", "two.gpu0", with_gpus=True)


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey) as connection:
        for box in ("one", "two"):
            announce(connection, box, ["a", "b"])
        yield connection


@pytest.fixture
def queue(empty_valkey: str) -> EvaluationQueue:
    return EvaluationQueue(empty_valkey)


@pytest.fixture
def book(connection: redis.Redis) -> LeaseBook:
    return LeaseBook(connection, TTL_S)


def submit(queue: EvaluationQueue, run: str, gpus: int = 1, **needs: object) -> str:
    job = Job(run, "p0", "alice", gpus, 0.0, **needs)  # type: ignore[arg-type]
    queue.enqueue(job)
    return job.id


def publish(connection: redis.Redis, book: LeaseBook, *starts: Start, age_s: float = 0.0) -> None:
    for start in starts:
        connection.hset(PLAN_STARTS_KEY, start.job, start_json(start))
    connection.set(PLAN_AT_KEY, book.now() - age_s)


def claimed(book: LeaseBook, slot: Slot) -> Claim:
    claim = book.claim(slot)
    assert claim is not None
    return claim


def test_a_plan_goes_before_the_order_of_the_queue(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    submit(queue, "first")
    second = submit(queue, "second")
    publish(connection, book, Start(second, "one", ("b",)))
    assert book.claim(OTHER) is None
    claim = claimed(book, GPU)
    assert (claim.job_id, claim.gpus, claim.user) == (second, ("b",), "alice")
    assert connection.hlen(PLAN_STARTS_KEY) == 0
    assert book.claim(GPU) is None, "what the plan does not start waits"


def test_an_old_plan_is_not_followed(connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook) -> None:
    first, second = submit(queue, "first"), submit(queue, "second")
    publish(connection, book, Start(second, "one", ("b",)), age_s=PLAN_FRESH_S + 0.5)
    assert (claimed(book, GPU).job_id, claimed(book, OTHER).job_id) == (first, second)
    assert connection.hlen(PLAN_STARTS_KEY) == 0


def test_a_slot_takes_planned_jobs_of_its_own_kind_only(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    plain, large = submit(queue, "plain", 0), submit(queue, "large", 2)
    publish(connection, book, Start(plain, "one", ()), Start(large, "one", ("b", "a")))
    assert claimed(book, GPU).gpus == ("b", "a")
    assert claimed(book, CPU).job_id == plain


def test_a_shared_gpu_is_given_by_memory(connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook) -> None:
    announce(connection, "one", ["a"], gpu_slots=4, shares_gpus=True)
    jobs = [submit(queue, f"r{number}", memory=30 * GIB, estimated_s=60.5) for number in range(3)]
    publish(connection, book, *(Start(job, "one", ("a",), 30 * GIB) for job in jobs))
    claims = [claimed(book, GPU), claimed(book, GPU)]
    assert [(claim.gpus, claim.memory, claim.estimated_s) for claim in claims] == [(("a",), 30 * GIB, 60.5)] * 2
    assert book.claim(GPU) is None, "a third would not fit"
    leases = queue.leases().values()
    assert {(lease.memory, lease.user, lease.estimated_s) for lease in leases} == {(30 * GIB, "alice", 60.5)}
    assert all(abs(lease.since - book.now()) < 5 for lease in leases)
    book.release(claims[0].job_id, claims[0].token)
    assert claimed(book, GPU).job_id in jobs


def test_a_planned_job_that_is_gone_leaves_queue_and_plan(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    undescribed, gone = submit(queue, "undescribed"), submit(queue, "gone")
    connection.delete(need_key(undescribed), f"rq:job:{gone}")
    publish(connection, book, Start(undescribed, "one", ("a",)), Start(gone, "one", ("b",)))
    assert book.claim(GPU) is None
    assert queue.queued() == []
    assert connection.hlen(PLAN_STARTS_KEY) == 0


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("state", ["paused", "drained", "away", "draining"])
def test_a_closed_box_takes_no_new_work(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook, state: str, planned: bool
) -> None:
    job = submit(queue, "run")
    if planned:
        publish(connection, book, Start(job, "one", ("a",)))
    if state == "away":
        connection.delete("lmms:box:one")
    elif state == "draining":
        announce(connection, "one", ["a", "b"], state="draining")
    else:
        connection.hset(BOX_STATE_KEY, "one", state)
    assert book.claim(GPU) is None
    connection.hdel(BOX_STATE_KEY, "one")
    announce(connection, "one", ["a", "b"])
    assert claimed(book, GPU).job_id == job


def test_a_drained_box_is_told_to_give_back_and_a_cancelled_run_to_stop(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    submit(queue, "run")
    claim = claimed(book, GPU)
    connection.hset(BOX_STATE_KEY, "one", "paused")
    assert book.renew(claim).answer is Renewal.KEPT
    connection.hset(BOX_STATE_KEY, "one", "drained")
    assert book.renew(claim).answer is Renewal.GIVE_BACK
    queue.ask_cancel("run")
    assert book.renew(claim).answer is Renewal.CANCEL
    queue.forget_cancel("run")
    book.free_gpus(claim)
    assert book.renew(claim)[:2] == (Renewal.KEPT, True), "it is nearly done"


def test_gpus_are_free_for_others_while_results_are_delivered(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    large, next_job = submit(queue, "large", 2), submit(queue, "next", 2)
    first = claimed(book, GPU)
    assert book.claim(GPU) is None
    book.free_gpus(first)
    second = claimed(book, GPU)
    assert (second.job_id, len(second.gpus)) == (next_job, 2)
    assert queue.leases()[large].delivering
    book.free_gpus(first)
    assert queue.leases()[next_job].gpus == second.gpus


def test_a_quarantined_gpu_is_left_alone_for_a_while(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    submit(queue, "large", 2)
    book.quarantine(["a"])
    assert book.claim(GPU) is None
    ttl = connection.ttl(quarantine_key("a"))
    assert isinstance(ttl, int)
    assert 0 < ttl <= QUARANTINE_S
    submit(queue, "small")
    assert claimed(book, GPU).gpus == ("b",)


def test_release_tells_the_planner_and_forgets_what_a_done_job_needed(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    job = submit(queue, "run")
    claim = claimed(book, GPU)
    listener: Any = connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with listener:
        listener.subscribe(WAKE_CHANNEL)
        listener.get_message(timeout=2)
        book.finish(claim)
        book.release(job, claim.token)
        message = listener.get_message(timeout=2)
    assert message is not None
    assert message["data"] == job.encode()
    assert not connection.exists(need_key(job))


@pytest.mark.parametrize("forgotten", [True, False])
def test_after_a_restart_of_the_queue_server_nobody_claims_for_a_while(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook, forgotten: bool
) -> None:
    submit(queue, "run")
    if forgotten:
        connection.delete("lmms:server-run")
    else:
        connection.set("lmms:server-run", "another process")
    assert book.claim(GPU) is None
    pause = connection.pttl(CLAIMS_FROM_KEY)
    assert isinstance(pause, int)
    assert abs(pause / 1000 - (3 if forgotten else TTL_S)) < 1
    assert book.claim(GPU) is None
    connection.delete(CLAIMS_FROM_KEY)  # time passes
    assert book.claim(GPU) is not None


def test_a_lease_that_expired_and_was_given_away_is_not_renewed_late(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    job = submit(queue, "run")
    slow = claimed(book, GPU)
    connection.zadd(LEASES_KEY, {job: 1.0})
    assert book.renew(slow).answer is Renewal.KEPT, "nobody has swept it: it is still its own"
    connection.zadd(LEASES_KEY, {job: 1.0})
    (lease,) = book.all()
    assert book.drop_expired(lease)
    quick = claimed(book, OTHER)
    assert book.renew(slow).answer is Renewal.LOST
    assert queue.leases()[job].token == quick.token
    assert not book.drop_expired(lease), "the sweep that comes late takes nothing from the new owner"


def test_a_cancel_that_comes_while_a_part_finishes_changes_nothing_of_its_end(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook
) -> None:
    job = submit(queue, "run")
    claim = claimed(book, GPU)
    book.finish(claim)
    queue.ask_cancel("run")
    assert book.renew(claim).answer is Renewal.CANCEL
    assert not book.release(job, claim.token)
    assert queue.queued() == []
    assert book.all() == []


def test_many_claims_at_once_start_each_job_once_and_never_share_a_gpu(
    connection: redis.Redis, queue: EvaluationQueue, empty_valkey: str
) -> None:
    gpus = [f"g{number}" for number in range(8)]
    announce(connection, "one", gpus)
    for number in range(12):
        submit(queue, f"r{number}", 1 + number % 2)
    found: list[Claim] = []
    together = threading.Barrier(8)

    def claim_one(number: int) -> None:
        with redis.Redis.from_url(empty_valkey) as own:
            book = LeaseBook(own, TTL_S)
            together.wait(10)
            claim = book.claim(Slot("one", f"one.gpu{number}", with_gpus=True))
            if claim is not None:
                found.append(claim)

    threads = [threading.Thread(target=claim_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [gpu for claim in found for gpu in claim.gpus]
    assert len(taken) == len(set(taken)) >= 7
    assert len({claim.job_id for claim in found}) == len({claim.token for claim in found}) == len(found)


def test_a_server_killed_between_claim_and_first_renewal_gives_the_job_to_nobody_else(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "queue")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as connection:
            book = LeaseBook(connection, 4.0)
            queue = EvaluationQueue(server.url)
            announce(connection, "one", ["a"])
            job = submit(queue, "run")
            assert book.claim(GPU) is None, "a new server lets holders of leases come first"
            connection.delete(CLAIMS_FROM_KEY)
            claim = claimed(book, GPU)
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            server.process = None
            server.start()
            assert book.claim(Slot("one", "one.gpu1", with_gpus=True)) is None
            assert connection.exists(CLAIMS_FROM_KEY), "it was noticed that it is another process"
            assert book.renew(claim).answer is Renewal.KEPT
            connection.delete(CLAIMS_FROM_KEY)
            assert book.claim(Slot("one", "one.gpu1", with_gpus=True)) is None
            assert (queue.queued(), list(queue.leases())) == ([], [job])
    finally:
        server.stop()
