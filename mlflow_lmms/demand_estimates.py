"""What a part of an evaluation needs, as the planner's job: GPUs, memory, time, and which boxes may run it.

Figures come from the request, the model's tags, earlier attempts and the model's name, in this order
(`planner.memory_estimate`, `planner.duration_estimate`). Where a job runs and when is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from mlflow_lmms.earlier_tasks import EarlierTasks
from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.gpu_use import GpuUse
from mlflow_lmms.planner.duration_estimate import DurationEstimate, TaskRun, estimate_job, estimate_task
from mlflow_lmms.planner.fleet import Job, Priority
from mlflow_lmms.planner.memory_estimate import (
    MemoryEstimate,
    ModelFacts,
    ObservedPeak,
    after_out_of_memory,
    estimate_memory,
)
from mlflow_lmms.states import State

#: Makers of GPUs, and so their users, count in powers of ten.
GB = 10**9
#: What a task is taken to have when it was never run and the request sets no limit.
_USUAL_SAMPLES = 1000
#: Loading an API client or a toy model.
_LOAD_WITHOUT_GPU_S = 10.0


class DemandEstimates:
    """Makes jobs of parts."""

    def __init__(self, engine: Engine, use: GpuUse) -> None:
        self._tasks = EarlierTasks(engine)
        self._use = use

    def job_of(self, evaluation: Evaluation, part: PartStatus) -> Job:
        """What the part's waiting tasks need."""
        waiting = [task for task in evaluation.tasks_of(part.part) if task.state == State.QUEUED]
        memory = self._memory(evaluation, part)
        return Job(
            run=evaluation.run_id,
            part=part.part,
            user=evaluation.created_by or "",
            gpus=part.gpus,
            queued_at=evaluation.created_at if part.queued_at is None else part.queued_at,
            memory=memory.likely,
            least_memory=memory.least,
            whole_gpus=memory.whole_gpus,
            priority=Priority[evaluation.priority.upper()],
            attempts=max((task.automatic_retries for task in waiting), default=0),
            estimated_s=estimate_job(self.task_seconds(evaluation, part).values(), load_s(part.gpus)),
            gpu_type=evaluation.request.gpu_type if part.gpus else None,
            labels=frozenset(evaluation.request.labels),
            box=evaluation.request.box,
            environment=evaluation.resolved.environment,
            home=part.box,
        )

    def task_seconds(self, evaluation: Evaluation, part: PartStatus) -> dict[str, DurationEstimate]:
        """How long each waiting task of the part is likely to take, in the run's order, without loading the model."""
        waiting = [task for task in evaluation.tasks_of(part.part) if task.state == State.QUEUED]
        earlier = self._tasks.of(evaluation.model, [task.task for task in waiting])
        return {task.task: _duration(evaluation, task, part.gpus, earlier) for task in waiting}

    def _memory(self, evaluation: Evaluation, part: PartStatus) -> MemoryEstimate:
        if part.gpus == 0:
            return estimate_memory(ModelFacts(""), 0)
        peaks = self._use.peaks(evaluation.model)
        found = memory_of(evaluation, part.gpus, peaks)
        return after_out_of_memory(found) if part.out_of_memory else found


def memory_of(evaluation: Evaluation, gpus: int, earlier: Sequence[ObservedPeak] = ()) -> MemoryEstimate:
    """Memory on each of the GPUs of an evaluation's model."""
    model = evaluation.resolved
    asked = evaluation.request.gpu_memory_gb or model.gpu_memory_gb
    facts = ModelFacts(model.adapter, model.parameters, model.dtype, model.model_args, model.name)
    return estimate_memory(
        facts,
        gpus,
        batch_size=evaluation.request.batch_size,
        asked=int(asked * GB) if asked else None,
        earlier=earlier,
    )


def load_s(gpus: int) -> float | None:
    """Seconds to load a model, where more is known than what is usual on a GPU."""
    return None if gpus else _LOAD_WITHOUT_GPU_S


def _duration(evaluation: Evaluation, task: TaskStatus, gpus: int, earlier: Sequence[TaskRun]) -> DurationEstimate:
    request = evaluation.request
    most = max((run.samples for run in earlier if run.task == task.task), default=_USUAL_SAMPLES)
    limit = request.effective_limit
    samples = (most if limit is None else limit) * (request.repeats or 1)
    return estimate_task(evaluation.model, task.task, samples, gpus, earlier)
