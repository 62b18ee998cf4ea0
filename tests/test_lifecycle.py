"""The life of an evaluation on a real MLflow store, real tables and a real queue server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotFoundError, StaleTokenError, UnavailableError
from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.evaluation_queue import CANCEL_KEY
from mlflow_lmms.lifecycle import Claim, Lifecycle, Owner
from mlflow_lmms.live_events import FEED_KEY
from mlflow_lmms.names import Tag
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.retry_budget import LIMITS, Budget
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.services import Services
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import PROTOCOL

TASKS = ("mmmu_val", "ai2d")


def submit(services: Services, *tasks: str, **fields: Any) -> str:
    request = EvaluationRequest.parse({"adapter": "dummy", "tasks": tasks or TASKS, **fields})
    return services.submission.submit(request).run_id


def a_claim(run_id: str, token: int, **fields: Any) -> Claim:
    return Claim(
        **{"protocol": PROTOCOL, "run_id": run_id, "part": "0", "token": token, "box": "box", "slot": "cpu0"} | fields
    )


def claim(services: Services, run_id: str, token: int | None = None) -> Owner:
    """Claim the run's part as a worker does and return who owns it then."""
    token = token or services.queue.next_token()
    order = services.lifecycle.claim(a_claim(run_id, token))
    return Owner(run_id, order.part, order.token)


def finish(services: Services, owner: Owner, task: str, score: float = 0.5) -> None:
    services.lifecycle.started(owner, task)
    services.lifecycle.recording(owner, task)
    services.lifecycle.task_finished(owner, task, samples=10, metric="acc", score=score)


def fail(services: Services, owner: Owner, task: str, *, retryable: bool = False) -> State:
    return services.lifecycle.task_failed(
        owner, task, FailureClass.SCORING, "too many values", "the log's end", retryable=retryable
    )


def states(services: Services, run_id: str) -> list[State]:
    return [task.state for task in services.store.get(run_id).tasks]


def shown(services: Services, run_id: str) -> Run:
    return services.client.get_run(run_id)


def test_a_claim_hands_over_all_that_it_takes_to_run(services: Services) -> None:
    run_id = submit(
        services, limit=8, gen_kwargs={"temperature": 0}, secrets=["HF_TOKEN"], model_args={"pretrained": "a"}
    )
    order = services.lifecycle.claim(a_claim(run_id, 4, gpus=("GPU-1",)))
    assert (order.run_id, order.part, order.token, order.attempt) == (run_id, "0", 4, 1)
    assert order.tasks == order.all_tasks == TASKS
    assert (order.limit, order.gen_kwargs, order.secrets) == (8, "temperature=0", ("HF_TOKEN",))
    assert (order.model.adapter, order.model.model_args) == ("dummy", {"pretrained": "a"})
    assert services.store.get(run_id).part("0").devices == ("GPU-1",)


def test_a_claim_shows_in_mlflow(services: Services) -> None:
    run_id = submit(services)
    claim(services, run_id)
    run = shown(services, run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags[Tag.STATE] == "starting"
    assert run.data.tags[Tag.WORKER] == "box/cpu0"
    assert run.data.tags[Tag.task_state("ai2d")] == "starting"
    assert float(run.data.tags[Tag.STARTED_AT]) >= float(run.data.tags[Tag.QUEUED_AT])


def test_the_whole_way_ends_in_a_finished_run(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    finish(services, owner, "mmmu_val", 0.25)
    assert states(services, run_id) == [State.FINISHED, State.STARTING]
    finish(services, owner, "ai2d", 0.75)
    services.lifecycle.part_finished(owner)
    evaluation = services.store.get(run_id)
    assert evaluation.state == State.FINISHED
    assert [(task.samples, task.metric, task.score) for task in evaluation.tasks] == [
        (10, "acc", 0.25),
        (10, "acc", 0.75),
    ]
    run = shown(services, run_id)
    assert (run.info.status, run.data.tags[Tag.STATE]) == ("FINISHED", "finished")
    assert run.info.end_time is not None
    assert services.store.to_mirror() == []


def test_every_move_is_told_to_those_who_watch(services: Services, empty_valkey: str) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    finish(services, owner, "ai2d")
    events = services.events.read(run_id)
    assert [(event.kind, event.data["state"]) for event in events] == [
        ("state", state) for state in ("starting", "running", "recording", "finished")
    ]
    assert {(event.part, event.token) for event in events} == {("0", owner.token)}
    assert events[-1].data["run_state"] == "finished"
    with redis.Redis.from_url(empty_valkey) as connection:
        assert connection.xlen(FEED_KEY) == 4


def test_one_failed_task_leaves_the_others_results(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    assert fail(services, owner, "mmmu_val") == State.FAILED
    finish(services, owner, "ai2d")
    services.lifecycle.part_finished(owner)
    evaluation = services.store.get(run_id)
    assert evaluation.state == State.FAILED
    failed, finished = evaluation.tasks
    assert (failed.failure, failed.message, failed.log_tail) == (
        FailureClass.SCORING,
        "too many values",
        "the log's end",
    )
    assert (finished.state, finished.score) == (State.FINISHED, 0.5)
    run = shown(services, run_id)
    assert (run.info.status, run.data.tags[Tag.FAILURE]) == ("FAILED", "scoring")


def test_a_failure_that_another_attempt_may_mend_is_tried_again_until_its_budget_is_spent(services: Services) -> None:
    run_id = submit(services, "ai2d")
    for attempt in range(1, LIMITS[Budget.CRASH] + 1):
        assert fail(services, claim(services, run_id), "ai2d", retryable=True) == State.QUEUED
        task = services.store.get(run_id).task("ai2d")
        assert (task.attempt, task.failure, task.message) == (attempt + 1, FailureClass.SCORING, "too many values")
        assert shown(services, run_id).data.tags[Tag.FAILURE] == ""
    assert fail(services, claim(services, run_id), "ai2d", retryable=True) == State.FAILED
    assert services.store.get(run_id).task("ai2d").attempt == LIMITS[Budget.CRASH] + 1


def test_a_finished_task_says_nothing_of_its_failed_attempts(services: Services) -> None:
    run_id = submit(services, "ai2d")
    fail(services, claim(services, run_id), "ai2d", retryable=True)
    finish(services, claim(services, run_id), "ai2d")
    task = services.store.get(run_id).task("ai2d")
    assert (task.state, task.failure, task.message, task.log_tail) == (State.FINISHED, None, None, None)


def test_a_long_message_and_log_are_kept_in_part(services: Services) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    services.lifecycle.task_failed(
        owner, "ai2d", FailureClass.UNKNOWN, "m" * 10_000, "a" * 50_000 + "end", retryable=False
    )
    task = services.store.get(run_id).task("ai2d")
    assert len(task.message or "") == 4000
    assert len(task.log_tail or "") == 16_000
    assert (task.log_tail or "").endswith("end")


CALLS: dict[str, Callable[[Lifecycle, Owner], Any]] = {
    "started": lambda lifecycle, owner: lifecycle.started(owner, "ai2d"),
    "recording": lambda lifecycle, owner: lifecycle.recording(owner, "ai2d"),
    "task_finished": lambda lifecycle, owner: lifecycle.task_finished(
        owner, "ai2d", samples=1, metric="m", score=1.0
    ),
    "task_failed": lambda lifecycle, owner: lifecycle.task_failed(
        owner, "ai2d", FailureClass.UNKNOWN, "m", "", retryable=False
    ),
    "part_finished": lambda lifecycle, owner: lifecycle.part_finished(owner),
    "heartbeat": lambda lifecycle, owner: lifecycle.heartbeat(owner),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_worker_that_lost_its_part_is_refused(services: Services, call: str) -> None:
    run_id = submit(services, "ai2d")
    late = claim(services, run_id)
    services.lifecycle.part_finished(late)
    claim(services, run_id)
    before = services.store.get(run_id)
    with pytest.raises(StaleTokenError, match="no longer valid"):
        CALLS[call](services.lifecycle, late)
    assert services.store.get(run_id) == before


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_run_or_part_is_named(services: Services, call: str) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        CALLS[call](services.lifecycle, Owner("nobody", "0", 1))
    run_id = submit(services, "ai2d")
    with pytest.raises(NotFoundError, match="no part '9'"):
        CALLS[call](services.lifecycle, Owner(run_id, "9", 1))


@pytest.mark.parametrize("call", ["started", "recording", "task_finished", "task_failed"])
def test_an_unknown_task_is_named(services: Services, call: str) -> None:
    run_id = submit(services, "mmmu_val")
    owner = claim(services, run_id)
    with pytest.raises(NotFoundError, match="no task 'ai2d'"):
        CALLS[call](services.lifecycle, owner)


def test_calls_may_be_repeated_when_their_answer_got_lost(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    for call in ("started", "recording", "task_finished"):
        CALLS[call](services.lifecycle, owner)
        before = services.store.get(run_id).tasks
        CALLS[call](services.lifecycle, owner)
        assert services.store.get(run_id).tasks == before
    assert fail(services, owner, "mmmu_val", retryable=True) == State.QUEUED
    assert fail(services, owner, "mmmu_val", retryable=True) == State.QUEUED
    assert services.store.get(run_id).task("mmmu_val").attempt == 2
    for _ in range(2):
        services.lifecycle.part_finished(owner)
    assert states(services, run_id) == [State.QUEUED, State.FINISHED]


@pytest.mark.parametrize("call", ["recording", "task_finished"])
def test_a_step_that_leaves_one_out_is_refused(services: Services, call: str) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    with pytest.raises(ConflictError, match="is starting and cannot become"):
        CALLS[call](services.lifecycle, owner)


@pytest.mark.parametrize("protocol", [PROTOCOL, PROTOCOL - 1])
def test_this_protocol_and_the_one_before_are_spoken(services: Services, protocol: int) -> None:
    run_id = submit(services)
    assert services.lifecycle.claim(a_claim(run_id, 1, protocol=protocol)).tasks == TASKS


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, PROTOCOL - 2])
def test_another_protocol_is_refused_with_the_remedy(services: Services, protocol: int) -> None:
    run_id = submit(services)
    with pytest.raises(InvalidRequestError, match="pip install 'mlflow-lmms=="):
        services.lifecycle.claim(a_claim(run_id, 1, protocol=protocol))
    assert states(services, run_id) == [State.QUEUED] * 2


def test_a_claim_with_an_old_token_is_told_the_smallest_that_would_do(services: Services) -> None:
    claim(services, submit(services), token=70)
    run_id = submit(services)
    owner = claim(services, run_id, token=50)
    services.lifecycle.part_finished(owner)
    with pytest.raises(StaleTokenError) as caught:
        services.lifecycle.claim(a_claim(run_id, 50))
    assert caught.value.details == {"minimum_token": 71}
    assert claim(services, run_id, token=71).token == 71


def test_a_part_that_is_worked_on_is_not_given_away(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id, token=5)
    with pytest.raises(ConflictError, match="nothing left to run"):
        services.lifecycle.claim(a_claim(run_id, 6))
    services.lifecycle.started(owner, "ai2d")


def test_a_waiting_run_is_cancelled_at_once(services: Services) -> None:
    run_id = submit(services)
    assert services.queue.queued() == [f"{run_id}-0"]
    assert services.lifecycle.cancel(run_id).state == State.CANCELLED
    assert services.queue.queued() == []
    assert shown(services, run_id).info.status == "KILLED"
    with pytest.raises(ConflictError, match="already ended: it is cancelled"):
        services.lifecycle.cancel(run_id)
    with pytest.raises(ConflictError, match="cancelled"):
        services.lifecycle.claim(a_claim(run_id, 9))


def test_a_running_run_is_cancelled_when_its_worker_has_stopped(services: Services, empty_valkey: str) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    services.lifecycle.started(owner, "mmmu_val")
    assert services.lifecycle.heartbeat(owner) == {"cancel": False}
    assert services.lifecycle.cancel(run_id).state == State.RUNNING
    with redis.Redis.from_url(empty_valkey) as connection:
        assert connection.smembers(CANCEL_KEY) == {run_id.encode()}
        assert services.lifecycle.heartbeat(owner) == {"cancel": True}
        services.lifecycle.part_finished(owner)
        assert connection.smembers(CANCEL_KEY) == set()
    assert states(services, run_id) == [State.CANCELLED] * 2
    assert shown(services, run_id).info.status == "KILLED"


def test_cancel_keeps_what_has_finished(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    finish(services, owner, "mmmu_val")
    services.lifecycle.cancel(run_id)
    services.lifecycle.part_finished(owner)
    assert states(services, run_id) == [State.FINISHED, State.CANCELLED]
    assert services.store.get(run_id).state == State.CANCELLED


def test_a_crash_after_cancel_is_no_reason_to_go_on(services: Services) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    services.lifecycle.cancel(run_id)
    fail(services, owner, "ai2d", retryable=True)
    services.lifecycle.part_finished(owner)
    assert services.store.get(run_id).state == State.CANCELLED


def test_cancel_does_not_need_the_queue_server(services: Services, tmp_path: Any) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    away = lifecycle_with(services, queue_url=f"unix://{tmp_path}/nobody.sock")
    away.cancel(run_id)
    assert services.lifecycle.heartbeat(owner) == {"cancel": True}


def lifecycle_with(
    services: Services, *, queue_url: str | None = None, client: MlflowClient | None = None
) -> Lifecycle:
    """The services' lifecycle, with another queue server or MLflow client."""
    queue, events = services.queue, services.events
    if queue_url is not None:
        queue, events = type(queue)(queue_url), type(events)(queue_url)
    mirror = RunMirror(client or services.client)
    return Lifecycle(services.store, queue, events, mirror, services.settings, services.scores.refresh)


def test_retry_runs_only_what_is_missing_in_the_same_run(services: Services) -> None:
    run_id = submit(services, "mmmu_val", "ai2d", "mme")
    owner = claim(services, run_id)
    finish(services, owner, "mmmu_val")
    fail(services, owner, "ai2d")
    services.lifecycle.cancel(run_id)
    services.lifecycle.part_finished(owner)
    assert states(services, run_id) == [State.FINISHED, State.FAILED, State.CANCELLED]
    assert services.lifecycle.retry(run_id) == ["ai2d", "mme"]
    evaluation = services.store.get(run_id)
    assert [task.attempt for task in evaluation.tasks] == [1, 2, 2]
    assert not evaluation.cancel_requested
    assert evaluation.task("ai2d").failure is None
    assert services.queue.queued() == [f"{run_id}-0"]
    order = services.lifecycle.claim(a_claim(run_id, owner.token + 1))
    assert (order.tasks, order.all_tasks, order.attempt) == (("ai2d", "mme"), ("mmmu_val", "ai2d", "mme"), 2)
    assert shown(services, run_id).info.status == "RUNNING"


def test_retry_opens_the_mlflow_run_again(services: Services) -> None:
    run_id = submit(services, "ai2d")
    fail(services, claim(services, run_id), "ai2d")
    assert shown(services, run_id).info.status == "FAILED"
    services.lifecycle.retry(run_id)
    run = shown(services, run_id)
    assert (run.info.status, run.data.tags[Tag.STATE], run.data.tags[Tag.ATTEMPT]) == ("SCHEDULED", "queued", "2")


@pytest.mark.parametrize("ended", [True, False])
def test_there_is_nothing_to_retry_where_nothing_failed(services: Services, ended: bool) -> None:
    run_id = submit(services, "ai2d")
    if ended:
        finish(services, claim(services, run_id), "ai2d")
    with pytest.raises(ConflictError, match="nothing of run"):
        services.lifecycle.retry(run_id)


def test_retry_without_a_queue_server_changes_nothing(services: Services, tmp_path: Any) -> None:
    run_id = submit(services, "ai2d")
    services.lifecycle.cancel(run_id)
    before = services.store.get(run_id)
    with pytest.raises(UnavailableError):
        lifecycle_with(services, queue_url=f"unix://{tmp_path}/nobody.sock").retry(run_id)
    assert services.store.get(run_id) == before


def test_what_a_worker_leaves_unfinished_goes_back_to_the_queue(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    services.lifecycle.started(owner, "mmmu_val")
    services.lifecycle.part_finished(owner)
    evaluation = services.store.get(run_id)
    assert [(task.state, task.attempt) for task in evaluation.tasks] == [(State.QUEUED, 2)] * 2


def test_moves_do_not_need_the_queue_server(services: Services, tmp_path: Any) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    away = lifecycle_with(services, queue_url=f"unix://{tmp_path}/nobody.sock")
    for call in ("started", "recording", "task_finished", "part_finished"):
        CALLS[call](away, owner)
    assert services.store.get(run_id).state == State.FINISHED


class ClientOfAbsentServer(MlflowClient):
    """MLflow's client, but its server is away."""

    def get_run(self, run_id: str) -> Run:
        raise MlflowException(f"no answer about {run_id}")


def test_what_mlflow_did_not_take_is_shown_later(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    services.lifecycle.started(owner, "mmmu_val")
    away = lifecycle_with(services, client=ClientOfAbsentServer(services.client.tracking_uri))
    away.started(owner, "ai2d")
    assert shown(services, run_id).data.tags[Tag.task_state("ai2d")] == "starting"
    assert [one.run_id for one in services.store.to_mirror()] == [run_id]
    services.reaper.tick()
    assert shown(services, run_id).data.tags[Tag.task_state("ai2d")] == "running"
    assert services.store.to_mirror() == []


class SlowMirror(RunMirror):
    """A mirror during whose first picture something else moves."""

    def __init__(self, client: MlflowClient, meanwhile: Callable[[], object]) -> None:
        super().__init__(client)
        self.meanwhile: Callable[[], object] | None = meanwhile

    def show(self, evaluation: Evaluation) -> bool:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().show(evaluation)


def test_an_older_picture_does_not_stay_over_a_newer_one(services: Services) -> None:
    run_id = submit(services)
    owner = claim(services, run_id)
    finish(services, owner, "mmmu_val")

    def meanwhile() -> None:
        services.lifecycle.recording(owner, "ai2d")
        services.lifecycle.task_finished(owner, "ai2d", samples=1, metric=None, score=None)

    slow = Lifecycle(
        services.store,
        services.queue,
        services.events,
        SlowMirror(services.client, meanwhile),
        services.settings,
        services.scores.refresh,
    )
    slow.started(owner, "ai2d")
    run = shown(services, run_id)
    assert (run.info.status, run.data.tags[Tag.STATE]) == ("FINISHED", "finished")
    assert services.store.to_mirror() == []


def test_a_run_of_many_tasks_shows_the_state_of_each(services: Services) -> None:
    tasks = sorted(services.catalogue().tasks)[:150]
    run_id = submit(services, *tasks)
    claim(services, run_id)
    tags = shown(services, run_id).data.tags
    assert all(tags[Tag.task_state(task)] == "starting" for task in tasks)
    assert services.store.to_mirror() == []


def test_parts_are_claimed_and_lost_by_themselves(services: Services) -> None:
    run_id = submit(services)
    evaluation = services.store.get(run_id)
    services.store.forget(run_id)
    first, second = evaluation.tasks
    parts = tuple(PartStatus(part, 0, 0, None, None, (), None, None) for part in ("0", "1"))
    services.store.add(replace(evaluation, tasks=(first, replace(second, part="1")), parts=parts))
    one = claim(services, run_id, token=1)
    order = services.lifecycle.claim(a_claim(run_id, 2, part="1"))
    assert (order.tasks, order.all_tasks) == (("ai2d",), TASKS)
    with pytest.raises(ConflictError):
        services.lifecycle.started(one, "ai2d")
    finish(services, one, "mmmu_val")
    services.lifecycle.part_finished(one)
    assert states(services, run_id) == [State.FINISHED, State.STARTING]


def test_a_deleted_run_is_left_alone(services: Services) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    services.client.delete_run(run_id)
    services.lifecycle.started(owner, "ai2d")
    assert services.store.get(run_id).state == State.RUNNING
    assert services.store.to_mirror() == []


def test_a_run_that_a_user_ended_is_not_opened_again_by_its_worker(services: Services) -> None:
    run_id = submit(services, "ai2d")
    owner = claim(services, run_id)
    services.client.set_terminated(run_id, "KILLED")
    services.lifecycle.started(owner, "ai2d")
    assert shown(services, run_id).info.status == "KILLED"
    services.lifecycle.recording(owner, "ai2d")
    services.lifecycle.task_finished(owner, "ai2d", samples=1, metric=None, score=None)
    assert shown(services, run_id).info.status == "FINISHED"


def test_a_claim_whose_answer_was_lost_is_answered_again(services: Services) -> None:
    run_id = submit(services)
    first = services.lifecycle.claim(a_claim(run_id, 7))
    assert services.lifecycle.claim(a_claim(run_id, 7)) == first
    with pytest.raises(StaleTokenError):
        services.lifecycle.claim(a_claim(run_id, 7, slot="another"))
