"""Shows an evaluation's state in its MLflow run: status and tags. MLflow's own page then tells the same story."""

from __future__ import annotations

import logging

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.names import TAGS_AT_ONCE, Tag
from mlflow_lmms.states import FINAL, MLFLOW_STATUS, State

_ENDED = ("FINISHED", "FAILED", "KILLED")

logger = logging.getLogger(__name__)


class RunMirror:
    """Writes status and tags of runs; what fails is left to be tried again by the caller."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def show(self, evaluation: Evaluation) -> bool:
        """Bring the MLflow run to the evaluation's state; False when MLflow did not take it.

        A run that was deleted takes nothing more, and one that a user has ended stays ended until its evaluation is.
        """
        try:
            if not self._takes(evaluation):
                return True
            # Tags last where the run goes on, and first where it ends: `_ended_by_a_user` goes by both.
            status = MLFLOW_STATUS[evaluation.state]
            if evaluation.state in FINAL:
                self._tag(evaluation)
                self._client.set_terminated(evaluation.run_id, status)
            else:
                self._client.update_run(evaluation.run_id, status=status)
                self._tag(evaluation)
        except (MlflowException, SQLAlchemyError) as error:
            logger.warning("MLflow run %s does not show state %s yet: %s", evaluation.run_id, evaluation.state, error)
            return False
        return True

    def _takes(self, evaluation: Evaluation) -> bool:
        run = self._run(evaluation.run_id)
        if run is None or run.info.lifecycle_stage == "deleted":
            return False
        return evaluation.state in FINAL or not _ended_by_a_user(run)

    def _tag(self, evaluation: Evaluation) -> None:
        tags = [RunTag(key, value) for key, value in state_tags(evaluation).items()]
        for start in range(0, len(tags), TAGS_AT_ONCE):
            self._client.log_batch(evaluation.run_id, tags=tags[start : start + TAGS_AT_ONCE])

    def _run(self, run_id: str) -> Run | None:
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if str(error.error_code) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def ended_elsewhere(self, evaluation: Evaluation) -> bool:
        """Whether somebody deleted the run, or ended it in MLflow's own page, while it was not finished."""
        try:
            run = self._run(evaluation.run_id)
        except (MlflowException, SQLAlchemyError):
            return False
        return run is None or run.info.lifecycle_stage == "deleted" or _ended_by_a_user(run)


def _ended_by_a_user(run: Run) -> bool:
    """Whether the run has ended, though the state that we showed last is none that ends it."""
    return run.info.status in _ENDED and run.data.tags.get(Tag.STATE) not in FINAL


def state_tags(evaluation: Evaluation) -> dict[str, str]:
    """The tags that tell the state of the run and of each task."""
    times = {
        Tag.QUEUED_AT: evaluation.created_at,
        Tag.STARTED_AT: evaluation.started_at,
        Tag.ENDED_AT: evaluation.ended_at,
    }
    workers = sorted({f"{part.box}/{part.slot}" for part in evaluation.parts if part.box})
    devices = [device for part in evaluation.parts for device in part.devices]
    failures = sorted({str(task.failure) for task in evaluation.tasks if task.failure and task.state == State.FAILED})
    return {
        Tag.STATE: str(evaluation.state),
        Tag.ATTEMPT: str(max(task.attempt for task in evaluation.tasks)),
        Tag.WORKER: ",".join(workers),
        Tag.GPUS: ",".join(devices),
        Tag.FAILURE: ",".join(failures),
        **{key: f"{value:.3f}" for key, value in times.items() if value is not None},
        **{Tag.task_state(task.task): str(task.state) for task in evaluation.tasks},
    }
