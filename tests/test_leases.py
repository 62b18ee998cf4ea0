"""Leases on a real queue server: one step each, GPUs never given twice, stale tokens refused, jobs never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from mlflow_lmms.evaluation_queue import CANCEL_KEY, FENCE_KEY, LEASES_KEY, EvaluationQueue
from worker.leases import Claim, LeaseBook, Renewal, Slot

CPU = Slot("box", "box.cpu0")
GPUS = tuple(f"GPU-{letter * 4}" for letter in "abcd")
GPU = Slot("box", "box.gpu0", 1, GPUS)


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey) as connection:
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
    queue.enqueue("low", "p0", "low", 0)
    queue.enqueue("big", "p0", "high", 5)
    queue.enqueue("two", "p0", "high", 2)
    queue.enqueue("normal", "p0", "normal", 0)
    assert claim(book, GPU).job_id == "two-p0"
    assert [claim(book, CPU).job_id, claim(book, CPU).job_id] == ["normal-p0", "low-p0"]
    assert book.claim(CPU) is None
    assert book.claim(GPU) is None
    assert queue.queued() == ["big-p0"]


def test_a_lease_says_who_has_what_and_tokens_grow(queue: EvaluationQueue, book: LeaseBook) -> None:
    for run in ("a", "b"):
        queue.enqueue(run, "p0", "normal", 1)
    first, second = claim(book, GPU), claim(book, Slot("box", "box.gpu1", 1, GPUS))
    assert (first.gpus, second.gpus) == (GPUS[:1], GPUS[1:2])
    assert second.token > first.token
    lease = queue.leases()["a-p0"]
    assert (lease.box, lease.slot, lease.gpus, lease.token) == ("box", "box.gpu0", GPUS[:1], first.token)
    assert first.mark == f"a-p0#{first.token}"


def test_another_box_has_its_own_gpus(queue: EvaluationQueue, book: LeaseBook) -> None:
    for run in ("a", "b"):
        queue.enqueue(run, "p0", "normal", 4)
    assert claim(book, GPU).gpus == GPUS
    assert book.claim(Slot("box", "box.gpu1", 1, GPUS)) is None
    assert claim(book, Slot("other", "other.gpu0", 1, GPUS)).gpus == GPUS


def test_two_slots_never_get_the_same_job(queue: EvaluationQueue, empty_valkey: str) -> None:
    jobs = 60
    for number in range(jobs):
        queue.enqueue(f"r{number}", "p0", "normal", 0)
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
    queue.enqueue("a", "p0", "normal", 0)
    old = claim(book, CPU)
    expire(connection, "a-p0")
    assert book.drop_expired(book.all()[0])
    new = claim(book, Slot("box", "box.cpu1"))
    assert book.renew(old) is Renewal.LOST
    book.finish(old)
    book.release(old.job_id, old.token)
    assert queue.leases()["a-p0"].token == new.token
    assert book.renew(new) is Renewal.KEPT
    book.release(new.job_id, new.token)
    assert queue.queued() == ["a-p0"], "the late worker's `finish` counted"


def test_a_live_lease_is_not_swept_and_an_expired_one_goes_back_to_the_front(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    for run in ("a", "b"):
        queue.enqueue(run, "p0", "normal", 0)
    claim(book, CPU)
    assert not book.drop_expired(book.all()[0])
    expire(connection, "a-p0")
    assert book.claim(Slot("box", "x", 0)) is not None
    assert book.claim(Slot("box", "y", 0)) is None, "an expired lease that was not swept yet holds its job"
    expired = next(lease for lease in book.all() if lease.expires_at <= book.now())
    assert book.drop_expired(expired)
    assert queue.queued() == ["a-p0"]


def test_an_unfinished_job_waits_again_and_a_finished_one_does_not(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue("a", "p0", "normal", 0)
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
    queue.enqueue("a", "p0", "normal", 0)
    owned = claim(book, CPU)
    queue.enqueue("b", "p0", "normal", 0)
    for run in ("a", "b"):
        queue.ask_cancel(run)
    assert book.renew(owned) is Renewal.CANCEL
    assert book.claim(CPU) is None
    connection.delete(CANCEL_KEY)
    assert claim(book, CPU).job_id == "b-p0"


def test_a_lease_that_redis_forgot_is_written_again(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue("a", "p0", "normal", 1)
    owned = claim(book, GPU)
    connection.flushall()
    queue.enqueue("a", "p0", "normal", 1)
    assert book.renew(owned) is Renewal.KEPT
    assert queue.leases()["a-p0"].gpus == owned.gpus
    assert queue.queued() == []
    queue.enqueue("b", "p0", "normal", 1)
    assert claim(book, GPU).token > owned.token


def test_the_fence_only_rises(book: LeaseBook, queue: EvaluationQueue, connection: redis.Redis) -> None:
    book.raise_fence(41)
    book.raise_fence(7)
    queue.enqueue("a", "p0", "normal", 0)
    assert claim(book, CPU).token == 42
    assert connection.get(FENCE_KEY) == b"42"


def test_a_job_whose_data_is_gone_leaves_the_queue(
    queue: EvaluationQueue, book: LeaseBook, connection: redis.Redis
) -> None:
    queue.enqueue("a", "p0", "normal", 0)
    connection.delete("rq:job:a-p0")
    assert book.claim(CPU) is None
    assert queue.queued() == []


def test_a_job_with_results_on_the_box_comes_first_if_it_waits_and_fits(
    queue: EvaluationQueue, book: LeaseBook
) -> None:
    for run, gpus in (("a", 1), ("b", 1), ("c", 9)):
        queue.enqueue(run, "p0", "normal", gpus)
    claimed = book.claim(GPU, ["gone-p0", "c-p0", "b-p0"])
    assert claimed is not None
    assert claimed.job_id == "b-p0"
    assert claim(book, GPU).job_id == "a-p0"


class Fleet(RuleBasedStateMachine):
    """Two boxes with four GPUs each, several slots, and leases that come, stay, end and expire in any order."""

    url = ""

    @initialize()
    def start(self) -> None:
        self.redis = redis.Redis.from_url(self.url)
        self.redis.flushall()
        self.queue = EvaluationQueue(self.url)
        self.book = LeaseBook(self.redis, 60)
        self.held: dict[str, Claim] = {}
        self.lost: list[Claim] = []
        self.ended: set[str] = set()
        self.jobs: dict[str, int] = {}
        self.newest = 0

    @rule(gpus=st.integers(0, 5), priority=st.sampled_from(["high", "normal", "low"]))
    def submit(self, gpus: int, priority: str) -> None:
        run = f"run{len(self.jobs)}"
        self.jobs[f"{run}-p0"] = gpus
        self.queue.enqueue(run, "p0", priority, gpus)

    @rule(box=st.sampled_from(["one", "two"]), number=st.integers(0, 3), cpu=st.booleans())
    def claim(self, box: str, number: int, cpu: bool) -> None:
        slot = Slot(box, f"{box}.{cpu}.{number}", 0 if cpu else 1, () if cpu else GPUS)
        claimed = self.book.claim(slot)
        if claimed is None:
            return
        need = self.jobs[claimed.job_id]
        assert len(claimed.gpus) == need, "all or nothing"
        assert cpu == (need == 0)
        assert claimed.token > self.newest, "tokens grow"
        assert claimed.job_id not in self.held, "the job is somebody else's"
        self.newest = claimed.token
        self.held[claimed.job_id] = claimed

    def _some(self, data: Any) -> Claim | None:
        return self.held[data.draw(st.sampled_from(sorted(self.held)))] if self.held else None

    @rule(data=st.data(), done=st.booleans())
    def release(self, data: Any, done: bool) -> None:
        if (chosen := self._some(data)) is not None:
            if done:
                self.book.finish(chosen)
                self.ended.add(chosen.job_id)
            self.book.release(chosen.job_id, chosen.token)
            self.lost.append(self.held.pop(chosen.job_id))

    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        if (chosen := self._some(data)) is not None:
            assert self.book.renew(chosen) is Renewal.KEPT

    @rule(data=st.data())
    def expire(self, data: Any) -> None:
        if (chosen := self._some(data)) is not None:
            expire(self.redis, chosen.job_id)
            lease = next(lease for lease in self.book.all() if lease.job_id == chosen.job_id)
            assert self.book.drop_expired(lease)
            self.lost.append(self.held.pop(chosen.job_id))

    @rule()
    def the_losers_come_back(self) -> None:
        for loser in self.lost:
            self.book.release(loser.job_id, loser.token)
            if loser.job_id in self.held:
                assert self.book.renew(loser) is Renewal.LOST

    @invariant()
    def nothing_is_given_twice_or_lost(self) -> None:
        if not hasattr(self, "held"):
            return
        leases = self.book.all()
        assert {lease.job_id: lease.token for lease in leases} == {k: c.token for k, c in self.held.items()}
        taken = [(lease.box, gpu) for lease in leases for gpu in lease.gpus]
        assert len(taken) == len(set(taken)), "a GPU is leased twice"
        waiting = self.queue.queued()
        assert len(waiting) == len(set(waiting))
        assert set(waiting) | set(self.held) | self.ended == set(self.jobs)
        assert not set(waiting) & set(self.held)

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self.redis.close()


def test_no_gpu_is_oversubscribed_and_no_job_is_lost_in_any_order_of_events(empty_valkey: str) -> None:
    Fleet.url = empty_valkey
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
