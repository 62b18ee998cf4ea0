"""The queue on a real server: order, one job per part, leases and boxes as the workers write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from fleet_boxes import announce
from hypothesis import given
from hypothesis import strategies as st
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from waiting_job import waiting

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation_queue import (
    CANCEL_KEY,
    JOB_FUNCTION,
    LEASES_KEY,
    EvaluationQueue,
    job_id,
    lease_key,
    need_key,
    split_job_id,
)
from mlflow_lmms.queue_keys import NEEDS_REVISION_KEY, job_from_need
from worker.leases import LeaseBook, Slot

SLOT = Slot("box", "box.cpu0")


@pytest.fixture
def queue(empty_valkey: str) -> EvaluationQueue:
    return EvaluationQueue(empty_valkey)


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def fetch(empty_valkey: str) -> Iterator[Callable[[str], Job]]:
    """A function that reads a job as RQ does."""
    with redis.Redis.from_url(empty_valkey) as raw:
        yield lambda identifier: Job.fetch(identifier, connection=raw, serializer=JSONSerializer)


@given(st.from_regex(r"[0-9a-f]{32}", fullmatch=True), st.from_regex(r"[0-9a-z\-]{1,8}", fullmatch=True))
def test_a_job_id_is_taken_apart_again(run_id: str, part: str) -> None:
    assert split_job_id(job_id(run_id, part)) == (run_id, part)


def test_a_job_is_json_with_ids_only(
    queue: EvaluationQueue, connection: redis.Redis, fetch: Callable[[str], Job]
) -> None:
    asked = waiting("run", "0", "normal", 2, memory=30 << 30, labels=frozenset({"fast"}), user="eve")
    assert queue.enqueue(asked)
    job = fetch("run-0")
    assert json.loads(job.data) == [JOB_FUNCTION, None, ["run", "0"], {}]
    assert (job.meta, job.get_status()) == ({}, JobStatus.QUEUED)
    assert job_from_need(_needs(connection, "run-0")) == asked


def test_needs_are_told_anew_while_a_job_waits(queue: EvaluationQueue, connection: redis.Redis) -> None:
    queue.enqueue(waiting("run", "0", gpus=2))
    revision = connection.get(NEEDS_REVISION_KEY)
    queue.update_needs([waiting("run", "0", gpus=4), waiting("gone", "0")])
    assert job_from_need(_needs(connection, "run-0")).gpus == 4
    assert connection.get(NEEDS_REVISION_KEY) != revision
    assert connection.exists(need_key("gone-0")) == 0


def _needs(connection: redis.Redis, job: str) -> dict[str, str]:
    fields: Any = connection.hgetall(need_key(job))
    return dict(fields)


def test_the_fence_is_only_ever_raised(queue: EvaluationQueue) -> None:
    assert [queue.raise_fence(0), queue.raise_fence(7), queue.raise_fence(5), queue.next_token()] == [0, 7, 7, 8]


def test_jobs_wait_by_priority_then_in_order(queue: EvaluationQueue) -> None:
    for run_id, priority in (("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal")):
        queue.enqueue(waiting(run_id, "0", priority, 0))
    queue.enqueue(waiting("e", "0", "normal", 0), front=True)
    assert queue.queued() == ["c-0", "e-0", "b-0", "d-0", "a-0"]


def test_a_part_is_queued_once(queue: EvaluationQueue) -> None:
    queue.enqueue(waiting("run", "0", "normal", 0))
    queue.enqueue(waiting("run", "0", "high", 0))
    queue.enqueue(waiting("run", "1", "normal", 0))
    assert queue.queued() == ["run-0", "run-1"]


def test_a_part_that_is_worked_on_is_not_queued(queue: EvaluationQueue, connection: redis.Redis) -> None:
    book = LeaseBook(connection, 15)
    announce(connection, SLOT.box, cpu_slots=100)
    queue.enqueue(waiting("run", "0", "normal", 0))
    claim = book.claim(SLOT)
    assert claim is not None
    queue.enqueue(waiting("run", "0", "normal", 0))
    assert queue.queued() == []
    book.finish(claim)
    book.release(claim.job_id, claim.token)
    queue.enqueue(waiting("run", "0", "normal", 0))
    assert queue.queued() == ["run-0"]
    assert book.claim(SLOT) is not None


def test_enqueuing_at_once_leaves_one_job_that_can_be_claimed_once(
    empty_valkey: str, connection: redis.Redis, fetch: Callable[[str], Job]
) -> None:
    queues = [EvaluationQueue(empty_valkey) for _ in range(4)]
    book = LeaseBook(connection, 15)
    announce(connection, SLOT.box, cpu_slots=100)
    for round_ in range(10):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda queue: queue.enqueue(waiting(f"run{round_}", "0", "normal", 0)), queues))  # noqa: B023
        claims = [book.claim(SLOT) for _ in range(3)]
        assert [claim.job_id for claim in claims if claim] == [f"run{round_}-0"]
        assert fetch(f"run{round_}-0").args == [f"run{round_}", "0"]


def test_a_waiting_part_is_taken_out(queue: EvaluationQueue, connection: redis.Redis) -> None:
    queue.enqueue(waiting("run", "0", "high", 0))
    queue.enqueue(waiting("run", "1", "normal", 0))
    queue.remove("run", "0")
    assert queue.queued() == ["run-1"]
    assert not connection.exists("rq:job:run-0", need_key("run-0"))
    queue.remove("run", "0")
    queue.remove("nobody", "0")


def test_a_claimed_part_is_left_to_its_worker(
    queue: EvaluationQueue, connection: redis.Redis, fetch: Callable[[str], Job]
) -> None:
    queue.enqueue(waiting("run", "0", "normal", 0))
    announce(connection, SLOT.box, cpu_slots=100)
    LeaseBook(connection, 15).claim(SLOT)
    queue.remove("run", "0")
    assert fetch("run-0").args == ["run", "0"]


def test_leases_are_seen_until_they_expire(queue: EvaluationQueue, connection: redis.Redis) -> None:
    book = LeaseBook(connection, 15)
    announce(connection, "gpu7", ["GPU-a", "GPU-b"])
    queue.enqueue(waiting("run", "0", "normal", 1))
    claim = book.claim(Slot("gpu7", "gpu7.0", with_gpus=True))
    assert claim is not None
    lease = queue.leases()["run-0"]
    assert (lease.box, lease.slot, lease.gpus, lease.token) == ("gpu7", "gpu7.0", ("GPU-a",), claim.token)
    assert 0 < lease.expires_at - book.now() <= 15
    connection.zadd(LEASES_KEY, {"run-0": book.now() - 1})
    assert queue.leases() == {}


def test_a_lease_without_its_hash_is_none(queue: EvaluationQueue, connection: redis.Redis) -> None:
    connection.zadd(LEASES_KEY, {"run-0": 9e9})
    assert queue.leases() == {}
    assert not connection.exists(lease_key("run-0"))


def test_tokens_grow_beyond_every_earlier_one(queue: EvaluationQueue) -> None:
    assert [queue.next_token(), queue.next_token(), queue.next_token(at_least=9), queue.next_token()] == [
        1,
        2,
        10,
        11,
    ]


def test_cancel_is_asked_for_and_forgotten(queue: EvaluationQueue, connection: redis.Redis) -> None:
    with connection.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe("lmms:wake")
        assert listener.get_message(timeout=5) is not None
        queue.ask_cancel("run")
        told = listener.get_message(timeout=5)
        assert told is not None
        assert told["data"] == "run"
    assert connection.smembers(CANCEL_KEY) == {"run"}
    queue.forget_cancel("run")
    assert connection.smembers(CANCEL_KEY) == set()


def test_workers_are_woken_by_a_new_job(queue: EvaluationQueue, connection: redis.Redis) -> None:
    with connection.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe("lmms:wake")
        assert listener.get_message(timeout=5) is not None
        queue.enqueue(waiting("run", "0", "normal", 0))
        told = listener.get_message(timeout=5)
        assert told is not None
        assert told["data"] == "run-0"


CALLS: dict[str, Callable[[EvaluationQueue], Any]] = {
    "ping": lambda queue: queue.ping(),
    "enqueue": lambda queue: queue.enqueue(waiting("run", "0", "normal", 0)),
    "remove": lambda queue: queue.remove("run", "0"),
    "queued": lambda queue: queue.queued(),
    "leases": lambda queue: queue.leases(),
    "next_token": lambda queue: queue.next_token(),
    "ask_cancel": lambda queue: queue.ask_cancel("run"),
    "forget_cancel": lambda queue: queue.forget_cancel("run"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_absent_queue_server_is_named_without_its_password(tmp_path: Path, call: str) -> None:
    queue = EvaluationQueue(f"unix://{tmp_path}/nobody.sock?password=geheim")
    with pytest.raises(UnavailableError, match="MLFLOW_LMMS_REDIS_URL") as caught:
        CALLS[call](queue)
    assert "nobody.sock" in caught.value.message
    assert "geheim" not in caught.value.message
