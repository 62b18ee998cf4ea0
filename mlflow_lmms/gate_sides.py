"""The two sides of a gate: which results stand for a run, or for a registered model version."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import InvalidRequestError, NotFoundError, UnavailableError
from mlflow_lmms.names import Tag
from mlflow_lmms.recorded_run import model_label
from mlflow_lmms.registry import find_version
from mlflow_lmms.score import Score
from mlflow_lmms.score_index import ScoreIndex

REGISTERED = "models:/"
_INVALIDATED = "invalidated"


@dataclass(frozen=True)
class ModelVersionName:
    """A version in the Model Registry."""

    name: str
    version: str

    @property
    def label(self) -> str:
        """As boards show it."""
        return f"{self.name} v{self.version}"


@dataclass(frozen=True)
class Side:
    """Candidate or baseline; `version` None: no registered model version is known."""

    asked: str
    model: str
    version: ModelVersionName | None
    results: Mapping[str, Score]

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        version = {"name": self.version.name, "version": self.version.version} if self.version else None
        runs = {task: score.run_id for task, score in self.results.items()}
        return {"asked": self.asked, "model": self.model, "version": version, "runs": runs}


class Sides:
    """Finds sides in the score index, among what the caller may read."""

    def __init__(
        self,
        client: MlflowClient,
        scores: ScoreIndex,
        *,
        experiment_ids: Collection[str] | None,
        suite: str | None,
        primary: Mapping[str, str | None],
    ) -> None:
        self._client = client
        self._scores = scores
        self._experiment_ids = experiment_ids
        self._suite = suite
        self._primary = primary
        self._runs: dict[str, Run | None] = {}

    def find(self, asked: str, tasks: Sequence[str] | None) -> Side:
        """The side that a run's id, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` names.

        Args:
            tasks: only these; None: every task.

        Raises:
            NotFoundError: there is no such run or version.
        """
        if not asked.startswith(REGISTERED):
            return self._of_run(asked, tasks)
        found = find_version(self._client, asked)
        version = ModelVersionName(str(found.name), str(found.version))
        scores = self._scores.primary_scores(experiment_ids=self._experiment_ids, tasks=tasks, models=[version.label])
        results: dict[str, Score] = {}
        for score in sorted(scores, key=self._preference, reverse=True):
            if score.task not in results and self._version_of(score.run_id) == version:
                results[score.task] = score
        return Side(asked, version.label, version, results)

    def _preference(self, score: Score) -> tuple[bool, bool, bool, bool, float]:
        """Largest for the result that stands for its task: the newest of the best kind.

        A result with a warning is not passed over for an older one without: it is what is known of the model.
        """
        wanted = self._primary.get(score.task)
        return (
            _INVALIDATED not in score.warnings,
            not score.partial,
            wanted is None or wanted in (score.metric, f"{score.metric}:{score.filter}"),
            score.suite == self._suite,
            score.recorded_at,
        )

    def _of_run(self, run_id: str, tasks: Sequence[str] | None) -> Side:
        run = self._run(run_id)
        if run is None or run.info.lifecycle_stage == "deleted":
            raise NotFoundError(f"run {run_id} does not exist; name a run's id, models:/NAME/VERSION or @ALIAS")
        scores = [
            score
            for score in self._scores.of_runs([run_id])
            if (self._experiment_ids is None or score.experiment_id in self._experiment_ids)
            and (tasks is None or score.task in tasks)
        ]
        version = self._registered(self._version_of(run_id))
        return Side(run_id, model_label(run), version, {score.task: score for score in scores})

    def _registered(self, version: ModelVersionName | None) -> ModelVersionName | None:
        """The version where it is one: whoever logs a run may write any name into its tags."""
        if version is None:
            return None
        try:
            find_version(self._client, f"{REGISTERED}{version.name}/{version.version}")
        except (NotFoundError, InvalidRequestError):
            return None
        return version

    def _version_of(self, run_id: str) -> ModelVersionName | None:
        """The registered version that the run says it is of: a label alone could be anybody's."""
        run = self._run(run_id)
        name, version = (run.data.tags.get(key) for key in (Tag.MODEL, Tag.MODEL_VERSION)) if run else (None, None)
        return ModelVersionName(name, version) if name and version else None

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            try:
                self._runs[run_id] = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise UnavailableError(f"MLflow does not hand out run {run_id}: {error.message}") from None
                self._runs[run_id] = None
        return self._runs[run_id]
