"""Corrects a task's result: checks it against what is recorded, notes it in the ledger, and has the boards follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Self

from mlflow import MlflowClient
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mlflow_lmms.corrections import Action, Correction, Corrections
from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.recorded_run import recorded_tasks
from mlflow_lmms.request import TaskName
from mlflow_lmms.score import REPORTED, Score
from mlflow_lmms.score_index import ScoreIndex

Reason = Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$", max_length=2000)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class CorrectionRequest(BaseModel):
    """What is asked for; a value belongs to a re-scored result alone, an interval to a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskName
    action: Action
    reason: Reason
    value: _Number | None = None
    low: _Number | None = None
    high: _Number | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.action is Action.RESCORE) != (self.value is not None):
            raise ValueError(f"value: a number goes with rescore and with nothing else, got {self.action}")
        if (self.low is None) != (self.high is None) or (self.low is not None and self.value is None):
            raise ValueError("low, high: give both ends of the interval, with a value, or neither")
        if not (_or(self.low, -math.inf) <= _or(self.value, 0.0) <= _or(self.high, math.inf)):
            raise ValueError("low, high: the value must lie between them")
        return self


class ResultCorrection:
    """Invalidates, re-scores and restores results."""

    def __init__(
        self, ledger: Corrections, scores: ScoreIndex, client: MlflowClient, note_run: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._scores = scores
        self._client = client
        self._note_run = note_run

    def correct(self, run_id: str, asked: CorrectionRequest, *, by: str | None) -> Correction:
        """Add an entry to the ledger; boards show it when this returns.

        Raises:
            NotFoundError: the run has no result of the task.
            InvalidRequestError: the value cannot be one of the task's primary metric.
            ConflictError: there is nothing to restore.
            UnavailableError: the entry is kept, and the boards follow as soon as MLflow answers again.
        """
        run = self._client.get_run(run_id)
        tasks = recorded_tasks(run.data.tags)
        if asked.task not in tasks:
            has = ", ".join(tasks[:20]) or "no results"
            raise NotFoundError(f"run {run_id} has no result of task {asked.task!r}; it has {has}")
        if asked.value is not None:
            self._check_value(run_id, asked)
        correction = self._ledger.add(
            str(run.info.experiment_id),
            run_id,
            asked.task,
            asked.action,
            reason=asked.reason.strip(),
            by=by,
            value=asked.value,
            low=asked.low,
            high=asked.high,
        )
        self._note_run(run_id)  # so that the boards follow even where the next line fails
        self._scores.refresh_run(run_id)
        return correction

    def _check_value(self, run_id: str, asked: CorrectionRequest) -> None:
        score = next((score for score in self._scores.of_runs([run_id]) if score.task == asked.task), None)
        if score is None:
            raise InvalidRequestError(
                f"value: {asked.task} has no primary metric on the boards in run {run_id} whose value it could be"
            )
        if score.source == REPORTED:
            raise InvalidRequestError("value: a score that somebody else published is theirs; invalidate it instead")
        _check_scale(score, asked)


def _check_scale(score: Score, asked: CorrectionRequest) -> None:
    top = score.scale_high
    for name in ("value", "low", "high"):
        number = getattr(asked, name)
        if top is not None and number is not None and number > top:
            raise InvalidRequestError(f"{name}: {score.metric} is at most {top:g}, got {number:g}")


def _or(number: float | None, default: float) -> float:
    return default if number is None else number
