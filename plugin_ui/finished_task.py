"""The rule for what can be asked of a task's samples: the task must be the run's and have finished."""

from __future__ import annotations

from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.states import State


def require_finished(evaluation: Evaluation, task: str) -> None:
    """Go on only when the run has results of the task.

    Raises:
        NotFoundError: the run has no such task, or the task has not finished.
    """
    for status in evaluation.tasks:
        if status.task == task:
            if status.state is State.FINISHED:
                return
            raise NotFoundError(f"task {task} of run {evaluation.run_id} has not finished: it is {status.state}")
    names = ", ".join(status.task for status in evaluation.tasks)
    raise NotFoundError(f"run {evaluation.run_id} has no task {task!r}; it has {names}")
