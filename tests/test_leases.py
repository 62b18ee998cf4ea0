"""Leases on a real queue server: one step each, GPUs never given twice, stale tokens refused, jobs never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from fleet_boxes import announce, open_claims
from waiting_job import waiting

from mlflow_lmms.evaluation_queue import CANCEL_KEY, FENCE_KEY, LEASES_KEY, EvaluationQueue
from mlflow_lmms.queue_keys import PLAN_AT_KEY, PLAN_STARTS_KEY
from worker.leases import Claim, LeaseBook, Renewal, Slot

CPU = Slot("box", "box.cpu0")
GPUS = tuple(f"GPU-{letter * 4}" for letter in "abcd")
GPU = Slot("box", "box.gpu0", with_gpus=True)


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey) as connection:
        announce(connection, "box", GPUS, cpu_slots=100)
        announce(connection, "other", GPUS)
        yield connection


@pytest.fixture
def queue(empty_valkey: str) -> EvaluationQueue:
    return EvaluationQueue(empty_valkey)


@pytest.fixture
def book(connection: redis.Redis) -> LeaseBook:
    return LeaseBook(connection, 15)


def claim(book: LeaseBook, slot: Slot) -> Claim:
    claimed = book.claim(slot)
    assert claimed is not None
    return claimed


def expire(connection: redis.Redis, job_id: str) -> None:
    connection.zadd(LEASES_KEY, {job_id: 1.0})


def test_a_claim_takes_the_first_job_that_fits_by_priority(queue: EvaluationQueue, book: LeaseBook) -> None:
    queue.enqueue(waiting("low", "p0", "low", 0))
    queue.enqueue(waiting("big", "p0", "high", 5))
    queue.enqueue(waiting("two", "p0", "high", 2))
    queue.enqueue(waiting("normal", "p0", "normal", 0))
    assert claim(book, GPU).job_id == "two-p0"
    assert [claim(book, CPU).job_id, claim(book, CPU).job_id] == ["normal-p0", "low-p0"]
    assert book.claim(CPU) is None
    assert book.claim(GPU) is None
    assert queue.queued() == ["big-p0"]


def test_a_lease_says_who_has_what_and_tokens_grow(queue: EvaluationQueue, book: LeaseBook) -> None:
    for run in ("a", "b"):
        queue.enqueue(waiting(run, "p0", "normal", 1))
    first, second = claim(book, GPU), claim(book, Slot("box", "box.gpu1", with_gpus=True))
    assert (first.gpus, second.gpus) == (GPUS[:1], GPUS[1:2])
    assert second.token > first.token
    lease = queue.leases()["a-p0"]
    assert (lease.box, lease.slot, lease.gpus, lease.token) == ("box", "box.gpu0", GPUS[:1], first.token)
    assert first.mark == f"a-p0#{first.token}"


def test_another_box_has_its_own_gpus(queue: EvaluationQueue, book: LeaseBook) -> None:
    for run in ("a", "b"):
        queue.enqueue(waiting(run, "p0", "normal", 4))
    assert claim(book, GPU).gpus == GPUS
    assert book.claim(Slot("box", "box.gpu1", with_gpus=True)) is None
    assert claim(book, Slot("other", "other.gpu0", with_gpus=True)).gpus == GPUS


def test_two_slots_never_get_the_same_job(queue: EvaluationQueue, connection: redis.Redis, empty_valkey: str) -> None:
    jobs = 60
    for number in range(jobs):
        queue.enqueue(waiting(f"r{number}", "p0", "normal", 0))
    claimed: list[Claim] = []

    def work(name: str) -> None:
        with redis.Redis.from_url(empty_valkey) as own:
            book = LeaseBook(own, 15)
            while (found := book.claim(Slot("box", name))) is not None:
                claimed.append(found)

    threads = [threading.Thread(target=work, args=(f"box.cpu{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.job_id for item in claimed}) == len(claimed) == jobs
    assert len({item.token for item in claimed}) == jobs


def test_a_stale_token_neither_renews_nor_releases(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    old = claim(book, CPU)
    expire(connection, "a-p0")
    assert book.drop_expired(book.all()[0])
    new = claim(book, Slot("box", "box.cpu1"))
    assert book.renew(old).answer is Renewal.LOST
    book.finish(old)
    book.release(old.job_id, old.token)
    assert queue.leases()["a-p0"].token == new.token
    assert book.renew(new).answer is Renewal.KEPT
    book.release(new.job_id, new.token)
    assert queue.queued() == ["a-p0"], "the late worker's `finish` counted"


def test_a_live_lease_is_not_swept_and_an_expired_one_goes_back_to_the_front(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    for run in ("a", "b"):
        queue.enqueue(waiting(run, "p0", "normal", 0))
    claim(book, CPU)
    assert not book.drop_expired(book.all()[0])
    expire(connection, "a-p0")
    assert book.claim(Slot("box", "x")) is not None
    assert book.claim(Slot("box", "y")) is None, "an expired lease that was not swept yet holds its job"
    expired = next(lease for lease in book.all() if lease.expires_at <= book.now())
    assert book.drop_expired(expired)
    assert queue.queued() == ["a-p0"]


def test_an_unfinished_job_waits_again_and_a_finished_one_does_not(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    first = claim(book, CPU)
    connection.expire("rq:job:a-p0", 500)  # what RQ does with an ended job
    book.release(first.job_id, first.token)
    assert queue.queued() == ["a-p0"]
    assert connection.ttl("rq:job:a-p0") == -1
    second = claim(book, CPU)
    book.finish(second)
    book.release(second.job_id, second.token)
    assert queue.queued() == []
    assert book.all() == []


def test_a_run_to_be_cancelled_is_not_claimed_and_its_owner_is_told(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    owned = claim(book, CPU)
    queue.enqueue(waiting("b", "p0", "normal", 0))
    for run in ("a", "b"):
        queue.ask_cancel(run)
    assert book.renew(owned).answer is Renewal.CANCEL
    assert book.claim(CPU) is None
    connection.delete(CANCEL_KEY)
    assert claim(book, CPU).job_id == "b-p0"


def test_a_lease_that_redis_forgot_is_written_again(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 1))
    owned = claim(book, GPU)
    connection.flushall()
    announce(connection, "box", GPUS)
    open_claims(connection)
    queue.enqueue(waiting("a", "p0", "normal", 1))
    assert book.renew(owned).answer is Renewal.KEPT
    assert queue.leases()["a-p0"].gpus == owned.gpus
    assert queue.queued() == []
    queue.enqueue(waiting("b", "p0", "normal", 1))
    assert claim(book, GPU).token > owned.token


def test_the_fence_only_rises(book: LeaseBook, queue: EvaluationQueue, connection: redis.Redis) -> None:
    book.raise_fence(41)
    book.raise_fence(7)
    queue.enqueue(waiting("a", "p0", "normal", 0))
    assert claim(book, CPU).token == 42
    assert connection.get(FENCE_KEY) == b"42"


def test_a_job_whose_data_is_gone_leaves_the_queue(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    connection.delete("rq:job:a-p0")
    assert book.claim(CPU) is None
    assert queue.queued() == []


def test_a_job_with_results_on_the_box_comes_first_if_it_waits_and_fits(
    queue: EvaluationQueue, book: LeaseBook
) -> None:
    for run, gpus in (("a", 1), ("b", 1), ("c", 9)):
        queue.enqueue(waiting(run, "p0", "normal", gpus))
    claimed = book.claim(GPU, ["gone-p0", "c-p0", "b-p0"])
    assert claimed is not None
    assert claimed.job_id == "b-p0"
    assert claim(book, GPU).job_id == "a-p0"


@pytest.mark.parametrize("damage", [{"labels": '["a'}, {"boxes": "{"}, {"gpus": "many"}])
def test_a_job_whose_description_is_damaged_stops_no_other(
    connection: redis.Redis, queue: EvaluationQueue, book: LeaseBook, damage: dict[str, str]
) -> None:
    queue.enqueue(waiting("damaged", "p0", "high", 0))
    queue.enqueue(waiting("sound", "p0", "normal", 0))
    connection.hset("lmms:need:damaged-p0", mapping={str(field): text for field, text in damage.items()})
    claimed = book.claim(CPU)
    assert claimed is not None and claimed.job_id == "sound-p0"
    assert queue.queued() == [], "the reaper asks for it anew, with a sound description"


def test_a_damaged_plan_and_a_damaged_lease_stop_nobody(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    queue.enqueue(waiting("b", "p0", "normal", 0))
    held = claim(book, CPU)
    connection.hset(f"lmms:lease:{held.job_id}", "gpus", "[")
    connection.hset(PLAN_STARTS_KEY, mapping={"b-p0": "{", "a-p0": "[]"})
    connection.set(PLAN_AT_KEY, book.now())
    assert book.claim(CPU) is None, "the plan has nothing for this box"
    assert book.all() == [] and queue.leases() == {}
    connection.delete(PLAN_AT_KEY)
    assert claim(book, CPU).job_id == "b-p0"


def test_a_renewal_that_the_network_kept_back_revives_nothing(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    loser = claim(book, CPU)
    expire(connection, "a-p0")
    assert book.drop_expired(book.all()[0])
    winner = claim(book, Slot("box", "box.cpu1"))
    book.finish(winner)
    book.release(winner.job_id, winner.token)
    for late in (loser, winner):
        assert book.renew(late).answer is Renewal.LOST
    assert book.all() == [] and queue.queued() == []


def test_a_renewal_that_comes_after_its_time_is_refused(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue(waiting("a", "p0", "normal", 0))
    held = claim(book, CPU)
    connection.delete("lmms:lease:a-p0", LEASES_KEY)  # as a restart forgets
    late = replace(held, expires_at=book.now() - 1)
    assert book.renew(late).answer is Renewal.LOST
    assert book.all() == []
    assert book.renew(held).answer is Renewal.KEPT
    assert book.all()[0].token == held.token
