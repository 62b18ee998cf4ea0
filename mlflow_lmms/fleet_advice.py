"""What the owner of a new evaluation should know of the fleet at once: who could run it, and whether anybody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.planner.demand import demand_of
from mlflow_lmms.planner.fleet import Box, BoxState, Job
from mlflow_lmms.planner.wait_reason import closed_reason
from mlflow_lmms.quotas import QuotaStore
from mlflow_lmms.settings import Settings


class FleetAdvice:
    """Compares a new evaluation with the fleet and its user's quota."""

    def __init__(
        self,
        fleet: FleetView,
        quotas: QuotaStore,
        job_of: Callable[[Evaluation, PartStatus], Job],
        settings: Settings,
    ) -> None:
        self._fleet = fleet
        self._quotas = quotas
        self._job_of = job_of
        self._settings = settings

    def warnings(self, evaluation: Evaluation) -> list[str]:
        """One line for each thing that keeps the evaluation from starting soon.

        Raises:
            UnavailableError: the queue server does not answer.
        """
        boxes = self._fleet.planned_boxes(self._fleet.states())
        jobs = [self._job_of(evaluation, part) for part in evaluation.parts]
        return [line for job in jobs for line in (*self._about_boxes(job, boxes), *self._about_quota(job))]

    def _about_boxes(self, job: Job, boxes: Sequence[Box]) -> Iterator[str]:
        demand = demand_of(job, boxes)
        nobody = f"no worker with {_need(job)} is listening"
        starts = "the run waits until one starts (`mlflow-lmms worker`)"
        if not boxes:
            yield f"{nobody}: {starts}" + _without_gpu(job)
        elif demand.impossible:
            minutes = self._settings.never_fits_grace_s / 60
            hint = _without_gpu(job) if not any(box.gpus for box in boxes) else ""
            yield f"{nobody}: {demand.impossible}; unless one joins, the run fails after {minutes:g} min{hint}"
        elif not any(box.state is BoxState.OPEN for box in boxes if box.name in demand.boxes):
            yield f"{nobody}: {closed_reason(demand, boxes)}"

    def _about_quota(self, job: Job) -> Iterator[str]:
        most = self._quotas.all().of(job.user).gpus
        if most is not None and job.gpus > most:
            who = job.user or "everybody"
            yield f"the run waits for a larger quota: it asks for {job.gpus} GPUs, {who} may have {most} at a time"


def _need(job: Job) -> str:
    slots = "a CPU slot" if job.gpus == 0 else f"{job.gpus} GPU{'s' if job.gpus > 1 else ''}"
    return slots + (f" with the environment {job.environment!r}" if job.environment else "")


def _without_gpu(job: Job) -> str:
    return "; a model that needs no GPU is asked for with --gpus 0" if job.gpus else ""
