"""Spreading a run over places that would stay idle: a part that nobody has begun is cut into several.

All parts record into the one MLflow run. Where the parts run is the planner's business.
"""

from __future__ import annotations

from dataclasses import replace

from mlflow_lmms.demand_estimates import DemandEstimates, load_s
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.planner.duration_estimate import USUAL_LOAD_S
from mlflow_lmms.planner.fleet import FleetState, Job, Plan, Start
from mlflow_lmms.planner.parts import cut_into_parts, idle_places
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import State


class Spreading:
    """Cuts parts that are about to start."""

    def __init__(
        self, store: EvaluationStore, queue: EvaluationQueue, demands: DemandEstimates, settings: Settings
    ) -> None:
        self._store = store
        self._queue = queue
        self._demands = demands
        self._settings = settings

    def spread(self, state: FleetState, made: Plan, now: float) -> list[str]:
        """Cut the first part that starts now for which more places are idle; one at a time, then comes a new plan.

        Returns:
            One line for each part that was cut.
        """
        jobs = {job.id: job for job in state.jobs}
        for start in made.starts:
            if line := self._consider(state, made, jobs[start.job], start, now):
                return [line]
        return []

    def _consider(self, state: FleetState, made: Plan, job: Job, start: Start, now: float) -> str | None:
        # Boxes that have not fetched the run's files yet count too: they fetch for a part that waits for them.
        idle = idle_places(state, made, replace(job, boxes=None), now)
        if idle == 0:
            return None
        try:
            evaluation = self._store.get(job.run)
            part = evaluation.part(job.part)
        except NotFoundError:
            return None
        cuts = self._cuts(evaluation, part, idle)
        names = self._store.split_part(job.run, job.part, cuts) if len(cuts) > 1 else []
        if not names:
            return None
        self._queue_again(self._store.get(job.run), (job.part, *names))
        return f"{job.run}: part {job.part} is spread over {len(cuts)} places"

    def _cuts(self, evaluation: Evaluation, part: PartStatus, idle: int) -> tuple[tuple[str, ...], ...]:
        tasks = evaluation.tasks_of(part.part)
        begun = part.token > 0 or part.rescore or any(task.state != State.QUEUED for task in tasks)
        if begun or len(tasks) < 2:
            return ()
        seconds = {task: one.seconds for task, one in self._demands.task_seconds(evaluation, part).items()}
        load = load_s(part.gpus) or USUAL_LOAD_S
        most = evaluation.request.max_parts or self._settings.max_parts
        # A part is to work at least as long as it loads its model, else GPUs are busy with loading.
        places = min(idle + 1, most - len(evaluation.parts) + 1, int(sum(seconds.values()) / load))
        return cut_into_parts(seconds, places, load)

    def _queue_again(self, evaluation: Evaluation, parts: tuple[str, ...]) -> None:
        first, *others = (self._demands.job_of(evaluation, evaluation.part(part)) for part in parts)
        self._queue.update_needs([first])
        for job in others:
            self._queue.enqueue(job, front=True)
