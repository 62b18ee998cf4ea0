"""Scoring the answers of finished tasks again: a new score replaces the old one, and nothing else harms it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from test_lifecycle_retries import claim, submit

from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotFoundError
from mlflow_lmms.lifecycle import Claim, Owner
from mlflow_lmms.names import Tag
from mlflow_lmms.services import Services
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import PROTOCOL

TASKS = ("mmmu_val", "ai2d")


def finish(services: Services, owner: Owner, task: str, score: float) -> None:
    services.lifecycle.started(owner, task)
    services.lifecycle.recording(owner, task)
    services.lifecycle.task_finished(owner, task, samples=10, metric="acc", score=score)


def finished(services: Services) -> str:
    """A finished run of two tasks that had GPUs."""
    run_id = submit(services, *TASKS, adapter="qwen2_5_vl", gpus=2)
    owner = claim(services, run_id, gpus=("GPU-a", "GPU-b"))
    for task in TASKS:
        finish(services, owner, task, 0.5)
    services.lifecycle.part_finished(owner)
    services.queue.remove(run_id, "0")
    return run_id


def test_a_rescore_is_an_attempt_without_gpus_in_the_same_run(services: Services) -> None:
    run_id = finished(services)
    assert services.lifecycle.rescore(run_id) == list(TASKS)
    assert services.queue.queued() == [f"{run_id}-1"]
    run = services.client.get_run(run_id)
    assert (run.info.status, run.data.tags[Tag.STATE]) == ("SCHEDULED", "queued")
    order = services.lifecycle.claim(a_claim(services, run_id))
    assert (order.rescore, order.tasks, order.attempt) == (True, TASKS, 2)
    owner = Owner(run_id, "1", order.token)
    for task, score in zip(TASKS, (0.75, 0.25), strict=True):
        finish(services, owner, task, score)
    services.lifecycle.part_finished(owner)
    evaluation = services.store.get(run_id)
    assert (evaluation.state, [task.score for task in evaluation.tasks]) == (State.FINISHED, [0.75, 0.25])
    assert services.client.get_run(run_id).info.status == "FINISHED"


def a_claim(services: Services, run_id: str, **fields: Any) -> Claim:
    token = services.store.largest_token() + 1
    told = {"protocol": PROTOCOL, "part": "1", "token": token, "box": "b", "slot": "s"}
    return Claim(**{"run_id": run_id, **told, **fields})


def lose(services: Services, owner: Owner) -> None:
    """The worker is lost once more than its budget allows."""
    evaluation = services.store.get(owner.run_id)
    while evaluation.task("ai2d").state is not State.FINISHED:
        if evaluation.task("ai2d").state is State.QUEUED:
            claim(services, owner.run_id, "1")
        evaluation = services.store.get(owner.run_id)
        services.lifecycle.lose(evaluation, evaluation.part("1"))
        evaluation = services.store.get(owner.run_id)


def refuse(services: Services, owner: Owner) -> None:
    failed = services.lifecycle.task_failed(
        owner, "ai2d", FailureClass.JUDGE, "no key", "the log's end", retryable=False
    )
    assert failed == State.FINISHED
    again = services.lifecycle.task_failed(owner, "ai2d", FailureClass.JUDGE, "no key", "", retryable=False)
    assert again == State.FINISHED, "the answer got lost on its way"


def cancel(services: Services, owner: Owner) -> None:
    services.lifecycle.cancel(owner.run_id)
    services.lifecycle.part_finished(owner)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (refuse, r"the rescore failed \(judge\).* stands: no key"),
        (lose, "was lost 6 times"),
        (cancel, "cancelled; the result of an earlier attempt stands"),
    ],
)
@pytest.mark.parametrize("steps", [(), ("started",), ("started", "recording")])
def test_a_rescore_that_comes_to_nothing_leaves_the_result_as_it_was(
    services: Services, steps: tuple[str, ...], end: Callable[[Services, Owner], None], told: str
) -> None:
    run_id = finished(services)
    services.lifecycle.rescore(run_id, ["ai2d"])
    owner = claim(services, run_id, "1")
    for step in steps:
        getattr(services.lifecycle, step)(owner, "ai2d")
    end(services, owner)
    evaluation = services.store.get(run_id)
    task = evaluation.task("ai2d")
    assert (evaluation.state, task.state, task.score, task.samples) == (State.FINISHED, State.FINISHED, 0.5, 10)
    assert task.failure is None
    assert re.search(told, task.message or "")
    assert evaluation.task("mmmu_val").message is None
    assert services.client.get_run(run_id).info.status == "FINISHED"


def test_a_rescore_that_waits_is_cancelled_at_once(services: Services) -> None:
    run_id = finished(services)
    services.lifecycle.rescore(run_id)
    assert services.lifecycle.cancel(run_id).state == State.FINISHED
    assert services.queue.queued() == []
    assert services.lifecycle.rescore(run_id) == list(TASKS), "and may be asked for again"
    assert claim(services, run_id, "1").part == "1"


def test_a_rescore_is_given_back_and_goes_on_elsewhere(services: Services) -> None:
    run_id = finished(services)
    services.lifecycle.rescore(run_id, ["ai2d"])
    owner = claim(services, run_id, "1")
    services.lifecycle.part_finished(owner, given_back=True)
    assert services.store.get(run_id).task("ai2d").state == State.QUEUED
    finish(services, claim(services, run_id, "1"), "ai2d", 0.75)
    assert services.store.get(run_id).task("ai2d").score == 0.75


def test_tasks_that_have_no_result_cannot_be_rescored(services: Services) -> None:
    run_id = submit(services, *TASKS)
    with pytest.raises(ConflictError, match=r"no task of run .* is finished"):
        services.lifecycle.rescore(run_id)
    with pytest.raises(ConflictError, match=r"ai2d of run .* is not finished"):
        services.lifecycle.rescore(run_id, ["ai2d"])
    with pytest.raises(NotFoundError, match="no task 'mme'"):
        services.lifecycle.rescore(run_id, ["mme"])


def test_failed_tasks_are_retried_on_gpus_beside_a_rescore(services: Services) -> None:
    run_id = submit(services, *TASKS, adapter="qwen2_5_vl", gpus=2)
    owner = claim(services, run_id, gpus=("GPU-a", "GPU-b"))
    finish(services, owner, "mmmu_val", 0.5)
    services.lifecycle.task_failed(owner, "ai2d", FailureClass.SCORING, "m", "", retryable=False)
    services.lifecycle.part_finished(owner)
    services.queue.remove(run_id, "0")
    services.lifecycle.rescore(run_id)
    services.lifecycle.retry(run_id)
    evaluation = services.store.get(run_id)
    assert [(task.task, evaluation.part(task.part).gpus) for task in evaluation.tasks] == [
        ("mmmu_val", 0),
        ("ai2d", 2),
    ]
    assert sorted(services.queue.queued()) == [f"{run_id}-0", f"{run_id}-1"]


def test_a_worker_of_the_protocol_before_gets_no_rescore(services: Services) -> None:
    run_id = finished(services)
    services.lifecycle.rescore(run_id)
    with pytest.raises(InvalidRequestError, match="cannot do"):
        services.lifecycle.claim(a_claim(services, run_id, protocol=PROTOCOL - 1))
    assert services.store.get(run_id).task("ai2d").state == State.QUEUED


def test_the_reaper_queues_a_rescore_that_the_queue_server_lost(services: Services) -> None:
    run_id = finished(services)
    services.lifecycle.rescore(run_id)
    services.queue.remove(run_id, "1")
    services.reaper.tick()
    assert services.queue.queued() == [f"{run_id}-1"]
