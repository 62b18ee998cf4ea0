"""Leases through any order of events, on a real queue server: claims, renewals, ends, losses, restarts."""

from __future__ import annotations

import time
from typing import Any

import redis
from fleet_boxes import announce, open_claims
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from mlflow_lmms.evaluation_queue import LEASES_KEY, EvaluationQueue, lease_key
from mlflow_lmms.planner.fleet import GIB, BoxState, FleetState, Job, Lease
from mlflow_lmms.planner.plan import plan
from mlflow_lmms.queue_keys import (
    BOX_STATE_KEY,
    CLAIMS_FROM_KEY,
    PLAN_AT_KEY,
    PLAN_STARTS_KEY,
    SERVER_RUN_KEY,
    quarantine_key,
    start_json,
)
from worker.leases import Claim, LeaseBook, Renewal, Slot

GPUS = ("a", "b", "c", "d")
MEMORY = 80 * GIB
#: Box → whether its owner lets several jobs share a GPU.
BOXES = {"one": False, "two": True}


class Fleet(RuleBasedStateMachine):
    """Two boxes with four GPUs each, several slots, and leases that come, stay, end and expire in any order."""

    url = ""

    @initialize()
    def start(self) -> None:
        self.redis = redis.Redis.from_url(self.url)
        self.redis.flushall()
        open_claims(self.redis)
        self.reports = {
            box: announce(self.redis, box, GPUS, gpu_slots=6, cpu_slots=3, shares_gpus=shares)
            for box, shares in BOXES.items()
        }
        self.queue = EvaluationQueue(self.url)
        self.book = LeaseBook(self.redis, 60)
        self.held: dict[str, Claim] = {}
        self.lost: list[Claim] = []
        self.ended: set[str] = set()
        self.jobs: dict[str, Job] = {}
        self.closed: dict[str, str] = {}
        self.quarantined: set[str] = set()
        self.newest = 0

    @rule(gpus=st.integers(0, 5), memory=st.none() | st.integers(1, 90), whole=st.booleans())
    def submit(self, gpus: int, memory: int | None, whole: bool) -> None:
        estimate = None if memory is None else memory * GIB
        job = Job(f"run{len(self.jobs)}", "p0", "alice", gpus, time.time(), estimate, whole_gpus=whole)
        self.jobs[job.id] = job
        assert self.queue.enqueue(job)

    @rule(box=st.sampled_from(list(BOXES)), number=st.integers(0, 3), with_gpus=st.booleans())
    def claim(self, box: str, number: int, with_gpus: bool) -> None:
        starts: Any = self.redis.hgetall(PLAN_STARTS_KEY) if self.redis.exists(PLAN_AT_KEY) else None
        claimed = self.book.claim(Slot(box, f"{box}.{with_gpus}.{number}", with_gpus))
        if claimed is None:
            return
        job = self.jobs[claimed.job_id]
        assert len(set(claimed.gpus)) == job.gpus, "all or nothing"
        assert with_gpus == (job.gpus > 0)
        assert claimed.memory is None or (BOXES[box] and claimed.memory == job.memory and not job.whole_gpus)
        assert claimed.token > self.newest, "tokens grow"
        assert claimed.job_id not in self.held, "the job is somebody else's"
        assert box not in self.closed, "the box takes no new work"
        assert not self.quarantined & set(claimed.gpus)
        assert starts is None or claimed.job_id.encode() in starts, "the plan has another order"
        self.newest = claimed.token
        self.held[claimed.job_id] = claimed

    @rule(fresh=st.booleans())
    def make_a_plan(self, fresh: bool) -> None:
        leases = tuple(
            Lease(held.job_id, "alice", held.box, held.gpus, 0.0, None, held.memory)
            for held in self.held.values()
            if not held.delivering
        )
        boxes = tuple(
            report.for_planner(BoxState(self.closed.get(name, "open")), frozenset(self.quarantined))
            for name, report in self.reports.items()
        )
        waiting = tuple(self.jobs[identifier] for identifier in self.queue.queued())
        made = plan(FleetState(boxes, waiting, leases), time.time())
        self.redis.delete(PLAN_STARTS_KEY)
        for start in made.starts:
            self.redis.hset(PLAN_STARTS_KEY, start.job, start_json(start))
        self.redis.set(PLAN_AT_KEY, self.book.now(), ex=600 if fresh else 1)
        if not fresh:
            self.redis.delete(PLAN_AT_KEY)

    @rule(box=st.sampled_from(list(BOXES)), state=st.sampled_from(["open", "paused", "drained"]))
    def an_admin_decides(self, box: str, state: str) -> None:
        self.redis.hdel(BOX_STATE_KEY, box)
        self.closed.pop(box, None)
        if state != "open":
            self.closed[box] = state
            self.redis.hset(BOX_STATE_KEY, box, state)

    @rule(gpu=st.sampled_from(GPUS))
    def others_are_found_on_a_gpu(self, gpu: str) -> None:
        self.book.quarantine([gpu])
        self.quarantined.add(gpu)

    @rule()
    def the_others_are_gone(self) -> None:
        for gpu in self.quarantined:
            self.redis.delete(quarantine_key(gpu))
        self.quarantined.clear()

    def _some(self, data: Any) -> Claim | None:
        return self.held[data.draw(st.sampled_from(sorted(self.held)))] if self.held else None

    @rule(data=st.data(), done=st.booleans())
    def release(self, data: Any, done: bool) -> None:
        if (chosen := self._some(data)) is not None:
            if done:
                self.book.finish(chosen)
                self.ended.add(chosen.job_id)
            assert self.book.release(chosen.job_id, chosen.token) is not done
            self.lost.append(self.held.pop(chosen.job_id))

    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        if (chosen := self._some(data)) is not None:
            drained = self.closed.get(chosen.box) == "drained" and not chosen.delivering
            answer, delivering, _ = self.book.renew(chosen)
            assert answer is (Renewal.GIVE_BACK if drained else Renewal.KEPT)
            assert delivering is chosen.delivering

    @rule(data=st.data())
    def deliver_without_gpus(self, data: Any) -> None:
        if (chosen := self._some(data)) is not None:
            self.book.free_gpus(chosen)
            assert self.book.renew(chosen).delivering
            self.held[chosen.job_id] = Claim(**{**vars(chosen), "delivering": True, "gpus": (), "memory": None})

    @rule(data=st.data())
    def expire(self, data: Any) -> None:
        if (chosen := self._some(data)) is not None:
            self.redis.zadd(LEASES_KEY, {chosen.job_id: 1.0})
            lease = next(lease for lease in self.book.all() if lease.job_id == chosen.job_id)
            assert self.book.drop_expired(lease)
            self.lost.append(self.held.pop(chosen.job_id))

    @rule(data=st.data())
    def restart_and_forget(self, data: Any) -> None:
        """The server restarts without its last second: some leases are gone, and their jobs wait again."""
        forgotten = data.draw(st.sets(st.sampled_from(sorted(self.held)))) if self.held else set()
        for job in forgotten:
            self.redis.delete(lease_key(job))
            self.redis.zrem(LEASES_KEY, job)
            self.redis.lpush("rq:queue:lmms-normal", job)
        self.redis.set(SERVER_RUN_KEY, "another process")
        assert self.book.claim(Slot("one", "early")) is None
        assert self.book.claim(Slot("two", "early", with_gpus=True)) is None
        for held in self.held.values():  # before the pause is over, everybody has renewed
            assert self.book.renew(held).answer is not Renewal.LOST
        assert self.redis.ttl(CLAIMS_FROM_KEY) > 50
        self.redis.delete(CLAIMS_FROM_KEY)

    @rule()
    def the_losers_come_back(self) -> None:
        for loser in self.lost:
            self.book.finish(loser)
            self.book.free_gpus(loser)
            self.book.release(loser.job_id, loser.token)
            if loser.job_id in self.held:
                assert self.book.renew(loser).answer is Renewal.LOST

    @invariant()
    def no_gpu_is_given_twice(self) -> None:
        if not hasattr(self, "held"):
            return
        leases = self.book.all()
        assert {lease.job_id: lease.token for lease in leases} == {k: c.token for k, c in self.held.items()}
        for box in BOXES:
            for gpu in GPUS:
                holders = [lease for lease in leases if lease.box == box and gpu in lease.gpus]
                whole = [lease for lease in holders if lease.memory is None]
                assert not whole or len(holders) == 1, "a GPU that is given whole has another job"
                assert sum(lease.memory or 0 for lease in holders) <= MEMORY, "a GPU's memory is given twice"
            slots = [bool(lease.gpus) for lease in leases if lease.box == box and not lease.delivering]
            assert slots.count(True) <= 6
            assert slots.count(False) <= 3

    @invariant()
    def no_job_is_lost(self) -> None:
        if not hasattr(self, "held"):
            return
        waiting = self.queue.queued()
        assert len(waiting) == len(set(waiting))
        assert set(waiting) | set(self.held) | self.ended == set(self.jobs)
        assert not set(waiting) & set(self.held)

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self.redis.close()


def test_nothing_is_given_twice_and_no_job_is_lost_in_any_order_of_events(empty_valkey: str) -> None:
    Fleet.url = empty_valkey
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
