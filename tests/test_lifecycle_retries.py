"""What happens by itself after an attempt: budgets by class, parts given back, and what is noted of the attempt."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from mlflow_lmms.evaluation_queue import need_key
from mlflow_lmms.lifecycle import Claim, Owner
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.retry_budget import LIMITS, Budget, allows, budget_of, charged
from mlflow_lmms.services import Services
from mlflow_lmms.sql.schema import PartAttemptRow
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import PROTOCOL, Use


def submit(services: Services, *tasks: str, **fields: Any) -> str:
    request = EvaluationRequest.parse({"adapter": "dummy", "tasks": tasks, **fields})
    return services.submission.submit(request).run_id


def claim(services: Services, run_id: str, part: str = "0", gpus: tuple[str, ...] = ()) -> Owner:
    """Claim a part as a worker does; the queue is not asked."""
    token = services.store.largest_token() + 1
    told = {"protocol": PROTOCOL, "box": "box", "slot": "box.0", "gpus": gpus}
    services.lifecycle.claim(Claim(run_id=run_id, part=part, token=token, **told))
    return Owner(run_id, part, token)


def fail(services: Services, owner: Owner, failure: FailureClass, *, retryable: bool = False) -> State:
    return services.lifecycle.task_failed(owner, "ai2d", failure, "why", "the log's end", retryable=retryable)


def attempts(services: Services) -> list[tuple[int, str | None]]:
    """Token and outcome of each attempt that was noted."""
    with services.store.session() as session:
        return [(row.token, row.outcome) for row in session.query(PartAttemptRow).order_by(PartAttemptRow.token)]


@pytest.mark.parametrize(
    ("failure", "retryable", "budget"),
    [
        (FailureClass.OUT_OF_MEMORY, False, Budget.OUT_OF_MEMORY),
        (FailureClass.TIMEOUT, False, Budget.TIMEOUT),
        (FailureClass.WORKER_LOST, True, Budget.CRASH),
        (FailureClass.SCORING, True, Budget.CRASH),
        (FailureClass.SCORING, False, None),
        (FailureClass.BAD_REQUEST, False, None),
    ],
)
def test_each_class_has_its_budget(failure: FailureClass, retryable: bool, budget: Budget | None) -> None:
    assert budget_of(failure, retryable=retryable) is budget


@pytest.mark.parametrize("budget", Budget)
def test_a_budget_is_spent_by_its_own_retries_alone(budget: Budget) -> None:
    used: dict[str, int] = {}
    for _ in range(LIMITS[budget]):
        assert allows(budget, used)
        used = charged(used, budget)
    assert not allows(budget, used)
    assert all(allows(other, used) for other in Budget if other is not budget)
    assert charged(used, None) == used


@pytest.mark.parametrize(
    ("failure", "retryable", "times"),
    [
        (FailureClass.OUT_OF_MEMORY, False, 1),
        (FailureClass.TIMEOUT, False, 1),
        (FailureClass.WORKER_LOST, True, 2),
        (FailureClass.DATASET, False, 0),
    ],
)
def test_a_task_is_tried_again_as_often_as_its_class_allows(
    services: Services, failure: FailureClass, retryable: bool, times: int
) -> None:
    run_id = submit(services, "ai2d")
    for _ in range(times):
        assert fail(services, claim(services, run_id), failure, retryable=retryable) == State.QUEUED
    assert fail(services, claim(services, run_id), failure, retryable=retryable) == State.FAILED
    task = services.store.get(run_id).task("ai2d")
    assert (task.attempt, task.automatic_retries, task.failure) == (times + 1, times, failure)


def test_budgets_do_not_eat_each_other(services: Services) -> None:
    run_id = submit(services, "ai2d")
    for failure in (FailureClass.TIMEOUT, FailureClass.OUT_OF_MEMORY):
        assert fail(services, claim(services, run_id), failure) == State.QUEUED
    evaluation = services.store.get(run_id)
    claim(services, run_id)
    services.lifecycle.lose(services.store.get(run_id), services.store.get(run_id).part("0"))
    evaluation = services.store.get(run_id)
    assert evaluation.task("ai2d").retries == {"timeout": 1, "out_of_memory": 1, "worker_lost": 1}
    assert fail(services, claim(services, run_id), FailureClass.TIMEOUT) == State.FAILED


def test_after_running_out_of_memory_the_queue_asks_for_twice_as_much(services: Services, empty_valkey: str) -> None:
    run_id = submit(services, "ai2d", adapter="qwen2_5_vl", gpus=1, gpu_memory_gb=20)
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as connection:

        def need() -> dict[Any, Any]:
            found: Any = connection.hgetall(need_key(f"{run_id}-0"))
            return dict(found)

        before = need()
        owner = claim(services, run_id, gpus=("GPU-a",))
        assert fail(services, owner, FailureClass.OUT_OF_MEMORY) == State.QUEUED
        assert fail(services, owner, FailureClass.OUT_OF_MEMORY) == State.QUEUED, "the answer got lost on its way"
        services.lifecycle.part_finished(owner)
        after = need()
    assert int(after["memory"]) == 2 * int(before["memory"])
    assert services.store.get(run_id).part("0").out_of_memory == 1


def test_a_part_may_be_given_back_as_often_as_needed(services: Services) -> None:
    run_id = submit(services, "ai2d")
    for number in range(8):
        owner = claim(services, run_id)
        services.lifecycle.started(owner, "ai2d")
        services.lifecycle.part_finished(owner, given_back=True)
        task = services.store.get(run_id).task("ai2d")
        assert (task.state, task.attempt, task.retries) == (State.QUEUED, number + 2, {})
    assert attempts(services) == [(token, "given_back") for token in range(1, 9)]


def test_what_an_attempt_used_is_noted_once(services: Services) -> None:
    run_id = submit(services, "ai2d", adapter="qwen2_5_vl", gpus=1)
    owner = claim(services, run_id, gpus=("GPU-a",))
    fail(services, owner, FailureClass.SCORING)
    use = Use(gpu_seconds=12.5, peak_memory=3 << 30, mean_utilisation=80.0, energy_j=99.0)
    services.lifecycle.part_finished(owner, use=use)
    services.lifecycle.part_finished(owner, use=Use(gpu_seconds=1e6))
    with services.store.session() as session:
        (row,) = session.query(PartAttemptRow).all()
    assert (row.outcome, row.gpu_seconds, row.peak_memory, row.energy_j) == ("failed", 12.5, 3 << 30, 99.0)
    assert row.devices == '["GPU-a"]'


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_lost_attempt_ends_too(services: Services, cancelled: bool) -> None:
    run_id = submit(services, "ai2d")
    claim(services, run_id)
    if cancelled:
        services.lifecycle.cancel(run_id)
    evaluation = services.store.get(run_id)
    services.lifecycle.lose(evaluation, evaluation.part("0"))
    assert attempts(services) == [(1, "lost")]
    assert services.store.get(run_id).state == (State.CANCELLED if cancelled else State.QUEUED)
