"""The keeper of a lease on a real queue server: what it passes on, once each, and what it writes again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from fleet_boxes import announce, open_claims

from mlflow_lmms.evaluation_queue import EvaluationQueue, Lease
from mlflow_lmms.planner.fleet import Job
from mlflow_lmms.queue_keys import BOX_STATE_KEY, LEASES_KEY, lease_key
from worker.lease_keeper import LeaseKeeper
from worker.leases import Claim, LeaseBook, Slot

TTL_S = 2.0


class Kept:
    """A claim under a keeper, and what the keeper said."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.queue = EvaluationQueue(url)
        self.book = LeaseBook(self.redis, TTL_S)
        announce(self.redis, "b", ["a"])
        self.queue.enqueue(Job("run", "p0", "alice", 1, 0.0, estimated_s=60.0))
        since = time.monotonic()
        claim = self.book.claim(Slot("b", "b.gpu0", with_gpus=True))
        assert claim is not None
        self.claim: Claim = claim
        self.said: list[str] = []
        self.heard = threading.Event()
        self.keeper = LeaseKeeper(
            self.redis,
            claim,
            TTL_S,
            since=since,
            on_cancel=lambda: self.hear("cancel"),
            on_give_back=lambda: self.hear("give back"),
            on_lost=lambda why: self.hear(f"lost: {why}"),
        )
        self.keeper.start()

    def hear(self, word: str) -> None:
        self.said.append(word)
        self.heard.set()

    def wait(self) -> None:
        assert self.heard.wait(10), "the keeper says nothing"
        self.heard.clear()

    def lease(self) -> Lease:
        (lease,) = self.book.all()
        return lease

    def renewed(self) -> None:
        """Return when the keeper has renewed once more, at least."""
        seen, deadline = self.redis.zscore(LEASES_KEY, self.claim.job_id), time.monotonic() + 10
        while self.redis.zscore(LEASES_KEY, self.claim.job_id) == seen:
            assert time.monotonic() < deadline, "the lease is not renewed"
            time.sleep(0.02)


@pytest.fixture
def kept(empty_valkey: str) -> Iterator[Kept]:
    kept = Kept(empty_valkey)
    yield kept
    kept.keeper.stop()
    kept.redis.close()


def test_a_drained_box_is_told_once_and_a_cancel_after_it_too(kept: Kept) -> None:
    kept.redis.hset(BOX_STATE_KEY, "b", "drained")
    kept.wait()
    kept.renewed()
    kept.renewed()
    kept.queue.ask_cancel("run")
    kept.wait()
    kept.renewed()
    assert kept.said == ["give back", "cancel"]


def test_a_lease_that_somebody_else_has_ends_the_keeping(kept: Kept) -> None:
    kept.redis.hset(lease_key(kept.claim.job_id), "token", kept.claim.token + 1)
    kept.wait()
    kept.keeper.join(10)
    assert not kept.keeper.is_alive()
    assert kept.said == ["lost: somebody else has the part now"]


@pytest.mark.parametrize("freed", [True, False])
def test_a_forgotten_lease_is_written_again_as_it_was(kept: Kept, freed: bool) -> None:
    if freed:
        kept.book.free_gpus(kept.claim)
    kept.renewed()
    kept.renewed()  # one renewal may have been under way: after two, the keeper knows of it
    before = kept.lease()
    kept.redis.flushall()
    open_claims(kept.redis)
    deadline = time.monotonic() + 10
    while not kept.book.all():
        assert time.monotonic() < deadline, "the lease is not written again"
        time.sleep(0.02)
    after = kept.lease()
    assert (after.gpus, after.delivering) == (() if freed else ("a",), freed)
    for field in ("box", "slot", "token", "user", "estimated_s", "since", "memory"):
        assert getattr(after, field) == getattr(before, field), field
    assert kept.said == []
