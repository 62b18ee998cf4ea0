"""What parts are taken to need: from the request, the model's tags, earlier attempts and names, on real tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_lmms.demand_estimates import GB, DemandEstimates
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.lifecycle import Claim, Owner
from mlflow_lmms.planner.demand import demand_of
from mlflow_lmms.planner.fleet import GIB, Box, Gpu, Job, Priority
from mlflow_lmms.registry import ModelDescription, ModelTag, register_model
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.services import Services
from mlflow_lmms.states import State
from mlflow_lmms.work_order import PROTOCOL, Use


def submitted(services: Services, **fields: Any) -> Evaluation:
    asked = {"adapter": "qwen2_5_vl", "tasks": "ai2d", **fields}
    told = {name: value for name, value in asked.items() if value is not None}
    return services.store.get(services.submission.submit(EvaluationRequest.parse(told), by="ada").run_id)


def job_of(services: Services, evaluation: Evaluation) -> Job:
    return DemandEstimates(services.store.engine, services.gpu_use).job_of(evaluation, evaluation.parts[0])


def test_a_job_carries_all_that_was_asked_for(services: Services) -> None:
    selectors: dict[str, Any] = {"gpu_type": "H100", "labels": ["fast"], "box": "b", "environment": "vllm"}
    evaluation = submitted(services, gpus=2, priority="low", gpu_memory_gb=70, **selectors)
    job = job_of(services, evaluation)
    assert (job.run, job.part, job.user, job.gpus) == (evaluation.run_id, "0", "ada", 2)
    assert (job.gpu_type, job.labels, job.box, job.environment) == ("H100", frozenset({"fast"}), "b", "vllm")
    assert (job.priority, job.memory, job.queued_at) == (Priority.LOW, 70 * GB, evaluation.created_at)
    assert services.fleet.jobs() == (job,)


@pytest.mark.parametrize(
    ("asked", "card_gib"), [(80, 79.65), (80, 81559 / 1024), (40, 40), (24, 23034 / 1024), (16, 15360 / 1024)]
)
def test_what_is_asked_for_fits_a_card_that_is_sold_as_that_large(
    services: Services, asked: float, card_gib: float
) -> None:
    job = job_of(services, submitted(services, gpus=1, gpu_memory_gb=asked))
    card = Gpu("g", "a card", int(card_gib * GIB))
    other = Gpu("h", "a larger card", 200 * GIB)
    demand = demand_of(job, [Box("b", (card, other), gpu_slots=1)])
    assert demand.takes(card)


def test_tags_of_a_registered_model_tell_its_size(services: Services) -> None:
    description = ModelDescription(adapter="qwen2_5_vl", parameters=8_000_000_000, dtype="BF16", gpus=1)
    version = register_model(services.client, "sized", description)
    job = job_of(services, submitted(services, adapter=None, model=f"models:/sized/{version.version}"))
    assert job.memory is not None and 16e9 < job.memory < 22e9
    assert job.least_memory == int(8e9 * 2 * 0.8)
    services.client.set_model_version_tag("sized", version.version, ModelTag.GPU_MEMORY, "33.5")
    job = job_of(services, submitted(services, adapter=None, model=f"models:/sized/{version.version}"))
    assert job.memory == int(33.5 * GB)
    services.client.set_model_version_tag("sized", version.version, ModelTag.GPU_MEMORY, "a lot")
    services.client.set_model_version_tag("sized", version.version, ModelTag.PARAMETERS, "8B")
    job = job_of(services, submitted(services, adapter=None, model=f"models:/sized/{version.version}"))
    assert (job.memory, job.least_memory) == (None, None), "tags that somebody wrote by hand say nothing"


def test_a_name_is_a_guess_that_rules_nothing_out(services: Services) -> None:
    job = job_of(services, submitted(services, gpus=1, model_args={"pretrained": "org/Model-72B-Instruct"}))
    assert job.memory is not None and job.memory > 140e9
    assert job.least_memory is None


def finish(services: Services, evaluation: Evaluation, token: int, use: Use, samples: int = 500) -> None:
    """Let a worker finish all tasks of the first part."""
    part = evaluation.parts[0]
    gpus = tuple(f"g{number}" for number in range(part.gpus))
    claim = Claim(protocol=PROTOCOL, run_id=evaluation.run_id, part="0", token=token, box="b", slot="s", gpus=gpus)
    services.lifecycle.claim(claim)
    owner = Owner(evaluation.run_id, "0", token)
    for task in evaluation.tasks:
        services.lifecycle.started(owner, task.task)
        services.lifecycle.recording(owner, task.task)
        times: dict[str, Any] = {"samples": samples, "started_at": 1000.0, "ended_at": 2000.0}
        moved = services.store.move(evaluation.run_id, [task.task], State.FINISHED, token=token, **times)
        assert moved
    services.lifecycle.part_finished(owner, use=use)
    services.queue.remove(evaluation.run_id, "0")


def test_earlier_attempts_tell_memory_and_time(services: Services) -> None:
    named: dict[str, Any] = {"gpus": 1, "model_args": {"pretrained": "org/Model-7B"}}
    guessed = job_of(services, submitted(services, **named))
    earlier = submitted(services, **named)
    finish(services, earlier, 1, Use(peak_memory=30 * GIB))
    known = job_of(services, submitted(services, **named))
    assert guessed.memory != known.memory
    assert known.memory == int(30 * GIB * 1.1)
    assert known.estimated_s == 1000 + 60, "as many samples at the same pace, and loading"
    assert job_of(services, submitted(services, **named, limit=50)).estimated_s == 100 + 60
    other = submitted(services, gpus=1, model_args={"pretrained": "org/Other"})
    assert job_of(services, other).estimated_s == 1000 + 60, "another model on the same task"
    (row,) = services.gpu_use.by_run(0)
    assert (row.name, row.attempts) == (earlier.run_id, 1)


def test_after_out_of_memory_more_is_asked_for(services: Services) -> None:
    evaluation = submitted(services, gpus=1, gpu_memory_gb=20)
    part = replace(evaluation.parts[0], out_of_memory=1)
    job = DemandEstimates(services.store.engine, services.gpu_use).job_of(evaluation, part)
    assert (job.memory, job.whole_gpus) == (40 * GB, True)


def test_what_needs_no_gpu_needs_no_memory(services: Services) -> None:
    job = job_of(services, submitted(services, gpus=0, model_args={"pretrained": "org/Model-7B"}, limit=10))
    assert (job.gpus, job.memory, job.least_memory, job.estimated_s) == (0, None, None, 25.0)
