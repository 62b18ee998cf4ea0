"""Submission: a request becomes an MLflow run (SCHEDULED), rows in the evaluation tables and jobs in the queue.

What cannot work is refused here, before anything exists: unknown model or task, no queue, no database.
"""

from __future__ import annotations

import errno
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mlflow_lmms.adapters import check_adapter
from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import InvalidRequestError, NotAllowedError, StorageFullError, UnavailableError
from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.lifecycle import Lifecycle
from mlflow_lmms.model_arguments import format_model_arguments, refuse_remote_code, refuse_secrets
from mlflow_lmms.names import Artifact, Tag
from mlflow_lmms.registry import resolve_model
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.run_description import run_params, run_tags, suite_name
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import State
from mlflow_lmms.suite import SuiteRevision
from mlflow_lmms.suite_store import SuiteStore
from mlflow_lmms.task_plan import TaskPlan, plan_tasks
from mlflow_lmms.work_order import ResolvedModel

_ONE_PART = "0"
_RUN_NAME_LIMIT = 250


@dataclass(frozen=True)
class Submitted:
    """A new evaluation, and what its owner should know before it starts."""

    run_id: str
    experiment_id: str
    warnings: tuple[str, ...]


class Submission:
    """Checks requests and brings evaluations into being."""

    def __init__(
        self,
        store: EvaluationStore,
        client: MlflowClient,
        queue: EvaluationQueue,
        lifecycle: Lifecycle,
        catalogue: Callable[[], Catalogue],
        store_artifact: Callable[[str, Path, str], None],
        settings: Settings,
        suites: SuiteStore,
        advice: Callable[[Evaluation], list[str]],
    ) -> None:
        self._store = store
        self._client = client
        self._queue = queue
        self._lifecycle = lifecycle
        self._catalogue = catalogue
        self._store_artifact = store_artifact
        self._settings = settings
        self._suites = suites
        self._advice = advice

    def experiment_for(self, request: EvaluationRequest) -> tuple[str | None, str]:
        """Id (None: it would be created) and name of the experiment that the request goes to."""
        name = request.experiment or self._settings.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return None, name
        if experiment.lifecycle_stage == "deleted":
            raise InvalidRequestError(f"experiment {name!r} is deleted: restore it in MLflow, or name another one")
        return str(experiment.experiment_id), name

    def submit(
        self,
        request: EvaluationRequest,
        *,
        by: str | None = None,
        on_new_experiment: Callable[[str], None] | None = None,
    ) -> Submitted:
        """Bring the evaluation into being and queue it.

        Args:
            by: the signed-in user.
            on_new_experiment: told the id of an experiment that had to be made for the run.

        Raises:
            InvalidRequestError, NotFoundError: what is wrong with the request, before anything exists.
            UnavailableError: the queue server, the database or MLflow does not answer.
            StorageFullError: no space is left for the new run.
        """
        plan, model = self.check(request)
        self._queue.ping()
        self._store.ping()
        experiment_id = self._experiment(request, on_new_experiment)
        evaluation = self._create(plan, model, experiment_id, by)
        self._lifecycle.mirror(evaluation)
        warnings = self._catalogue().known_trouble(plan.tasks)
        try:
            warnings = [*self._advice(evaluation), *warnings]
            self._lifecycle.enqueue(evaluation)
        except UnavailableError as error:  # the run is there, and the reaper queues it when the queue server is back
            warnings.append(f"the run waits until the queue server is back: {error}")
        return Submitted(evaluation.run_id, experiment_id, tuple(warnings))

    def check(self, request: EvaluationRequest) -> tuple[TaskPlan, ResolvedModel]:
        """The tasks with their settings, and the model of a request.

        Raises:
            InvalidRequestError, NotFoundError: what is wrong with it.
        """
        plan = plan_tasks(request, self._suite(request), self._catalogue())
        model = resolve_model(self._client, request)
        format_model_arguments(model.model_args)
        format_model_arguments(request.gen_kwargs)
        refuse_secrets(model.model_args)
        if model.environment is None:
            check_adapter(model.adapter)
        if not self._settings.trust_remote_code:
            refuse_remote_code(model.model_args | {model.artifact_argument or "path": "its files"})
        return plan, model

    def _suite(self, request: EvaluationRequest) -> SuiteRevision | None:
        """The stored suite that is to be run; a group of lmms-eval may be named in its place."""
        if request.suite is None or request.tasks:
            return None
        if request.suite_revision is not None:
            return self._suites.get(request.suite, request.suite_revision)
        return self._suites.find(request.suite)

    def _experiment(self, request: EvaluationRequest, on_new: Callable[[str], None] | None) -> str:
        experiment_id, name = self.experiment_for(request)
        if experiment_id is not None:
            return experiment_id
        try:
            experiment_id = str(self._client.create_experiment(name))
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                return self._experiment(request, on_new)
            refused = InvalidRequestError if error.error_code == "INVALID_PARAMETER_VALUE" else NotAllowedError
            raise refused(f"experiment {name!r} could not be created: {error.message}") from None
        if on_new is not None:
            on_new(experiment_id)
        return experiment_id

    def _create(self, plan: TaskPlan, model: ResolvedModel, experiment_id: str, by: str | None) -> Evaluation:
        request, tasks = plan.request, list(plan.tasks)
        suite = request.suite or suite_name(request.tasks)
        name = (request.run_name or f"{model.label} · {suite}")[:_RUN_NAME_LIMIT]
        tags = run_tags(request, model, tasks, suite) | ({Tag.CREATED_BY: by, "mlflow.user": by} if by else {})
        run_id = self._create_run(experiment_id, name, tags)
        evaluation = Evaluation(
            run_id=run_id,
            experiment_id=experiment_id,
            name=name,
            model=model.label,
            suite=suite,
            request=request,
            resolved=model,
            state=State.QUEUED,
            priority=request.priority,
            created_by=by,
            created_at=time.time(),
            started_at=None,
            ended_at=None,
            cancel_requested=False,
            tasks=tuple(_new_task(task) for task in tasks),
            parts=(PartStatus(_ONE_PART, model.gpus, 0, None, None, (), None, None),),
            groups=plan.groups,
        )
        try:
            self._describe_run(evaluation)
            self._store.add(evaluation)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            with suppress(MlflowException):
                self._client.delete_run(run_id)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(f"no space is left for the new run's files: {error}; make room") from None
            raise UnavailableError(f"the new run could not be stored: {error}") from None
        return evaluation

    def _create_run(self, experiment_id: str, name: str, tags: dict[str, str]) -> str:
        try:
            run_id = str(self._client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
            # A run without rows is RUNNING for ever if this process dies here; SCHEDULED first, rows next.
            self._client.update_run(run_id, status="SCHEDULED")
        except MlflowException as error:
            raise UnavailableError(f"MLflow did not take the new run: {error.message}") from None
        return run_id

    def _describe_run(self, evaluation: Evaluation) -> None:
        tasks = [task.task for task in evaluation.tasks]
        params = run_params(evaluation.request, evaluation.resolved, tasks)
        self._client.log_batch(evaluation.run_id, params=[Param(key, value) for key, value in params.items()])
        content = {
            "request": evaluation.request.model_dump(mode="json"),
            "model": evaluation.resolved.model_dump(mode="json"),
            "tasks": tasks,
            "groups": list(evaluation.groups),
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(Artifact.REQUEST).name
            file.write_text(json.dumps(content, indent=1), encoding="utf-8")
            self._store_artifact(evaluation.run_id, file, Artifact.ROOT)


def _new_task(task: str) -> TaskStatus:
    return TaskStatus(task, _ONE_PART, State.QUEUED, 1, 0, None, None, None, None, None, None, None, None)
