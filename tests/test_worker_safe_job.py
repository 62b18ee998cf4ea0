"""What a queue job may be: a part to run, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from rq.serializers import JSONSerializer
from waiting_job import waiting

from mlflow_lmms.evaluation_queue import JOB_FUNCTION, EvaluationQueue, job_id
from worker.safe_job import RefusedJobError, SafeJob

RUN = "0a1b2c3d" * 4
JOB = job_id(RUN, "p0")


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey) as connection:
        yield connection


def fetch(connection: redis.Redis, identifier: str = JOB) -> SafeJob:
    job = SafeJob.fetch(identifier, connection=connection, serializer=JSONSerializer)
    assert isinstance(job, SafeJob)
    return job


def forge(connection: redis.Redis, data: Any, **fields: str) -> SafeJob:
    content = data if isinstance(data, str) else json.dumps(data)
    mapping: dict[Any, Any] = {"data": content, "origin": "lmms-normal", **fields}
    connection.hset(f"rq:job:{JOB}", mapping=mapping)
    return fetch(connection)


def test_the_queue_s_own_jobs_are_taken(empty_valkey: str, connection: redis.Redis) -> None:
    EvaluationQueue(empty_valkey).enqueue(waiting(RUN, "p0", "normal", 0))
    job = fetch(connection)
    assert job.part() == (RUN, "p0")
    assert job.func.__name__ == "run_part"
    assert job.timeout == -1


def test_rq_s_own_time_limit_is_never_taken_from_the_job(connection: redis.Redis) -> None:
    assert forge(connection, [JOB_FUNCTION, None, [RUN, "p0"], {}], timeout="180").timeout == -1


@pytest.mark.parametrize(
    "data",
    [
        ["os.system", None, ["id > evil"], {}],
        ["eval", None, ["1"], {}],
        ["worker.job.os.system", None, ["id"], {}],
        [JOB_FUNCTION, "x", [RUN, "p0"], {}],
        [JOB_FUNCTION, None, ["../../etc", "p0"], {}],
        [JOB_FUNCTION, None, [RUN, "p1"], {}],
        [JOB_FUNCTION, None, [RUN], {}],
        [JOB_FUNCTION, None, [RUN, "p0", "x"], {}],
        [JOB_FUNCTION, None, [RUN, "p0"], {"extra": 1}],
        [JOB_FUNCTION, None, [["nested"], {"a": 1}], {}],
        [JOB_FUNCTION, None, None, {}],
        [JOB_FUNCTION, None, 7, {}],
        [JOB_FUNCTION, None, {RUN: 1, "p0": 2}, {}],
        [1, 2, 3, 4],
        {"not": "a list"},
        "\x80\x04 no json",
    ],
)
def test_anything_else_is_refused(connection: redis.Redis, data: Any) -> None:
    job = forge(connection, data)
    with pytest.raises(RefusedJobError):
        job.part()
    with pytest.raises(RefusedJobError):
        _ = job.func


@pytest.mark.parametrize("field", ["success_callback_name", "failure_callback_name", "stopped_callback_name"])
def test_a_callback_is_refused_and_would_not_be_imported(connection: redis.Redis, field: str) -> None:
    job = forge(connection, [JOB_FUNCTION, None, [RUN, "p0"], {}], **{field: "os.getcwd"})
    with pytest.raises(RefusedJobError, match="callbacks"):
        job.part()
    assert job.success_callback is job.failure_callback is job.stopped_callback is None


def test_a_webhook_is_refused(connection: redis.Redis) -> None:
    hooks = json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "finished", "timeout": 1}])
    job = forge(connection, [JOB_FUNCTION, None, [RUN, "p0"], {}], webhooks=hooks)
    assert job.webhooks, "the stock job would call it"
    with pytest.raises(RefusedJobError, match="webhooks"):
        job.part()
