"""Brings the runs of output folders into MLflow: one run for each results file, whole or not at all.

Owns the order of the steps of one import. Reading belongs to `task_import`, writing to `RunRecorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.importing.discovery import Found, FoundResults
from mlflow_lmms.importing.experiments import experiment_named
from mlflow_lmms.importing.import_key import ImportedRuns
from mlflow_lmms.importing.import_lock import import_lock
from mlflow_lmms.importing.model_map import ModelMap
from mlflow_lmms.importing.read_tasks import Progress, ReadOptions, read_tasks
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.importing.report import FileOutcome, ImportReport, ImportStatus
from mlflow_lmms.importing.results_file import ResultsFile, read_results_file
from mlflow_lmms.importing.run_facts import ImportedRun, describe_run, model_of
from mlflow_lmms.importing.run_writer import RunWriter
from mlflow_lmms.importing.task_import import ImportedTask, TaskImport
from mlflow_lmms.names import EXPERIMENT
from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.scrubbing import Scrubber


@dataclass(frozen=True)
class ImportOptions:
    """What the user asked for; `primary` is ``metric`` or ``metric:filter`` by task."""

    experiment: str = EXPERIMENT
    suite: str | None = None
    primary: Mapping[str, str] = field(default_factory=dict)
    policy: ErroredPolicy = field(default_factory=ErroredPolicy)
    dry_run: bool = False


class Importer:
    """Imports what `discover` found."""

    def __init__(
        self,
        client: MlflowClient,
        options: ImportOptions,
        models: ModelMap,
        scrubber: Scrubber,
        *,
        progress: Progress = lambda path, task, lines: None,
        on_recorded: Callable[[str], object] = lambda run_id: None,
    ) -> None:
        self._client = client
        self._options = options
        self._models = models
        self._scrubber = scrubber
        self._progress = progress
        self._on_recorded = on_recorded
        self._runs = ImportedRuns(client)

    def import_all(self, found: Found) -> ImportReport:
        """Import every results file; what is refused does not stop the others.

        Raises:
            UnavailableError: MLflow does not answer.
        """
        outcomes = [self._import_one(one) for one in found.runs]
        outcomes += [FileOutcome(path, ImportStatus.REFUSED, reason) for path, reason in found.refused]
        outcomes += [FileOutcome(path, ImportStatus.SKIPPED, reason) for path, reason in found.skipped]
        return ImportReport.of(outcomes)

    def _import_one(self, found: FoundResults) -> FileOutcome:
        try:
            results = read_results_file(found.results)
        except RefusedFileError as error:
            return FileOutcome(found.results, ImportStatus.REFUSED, error.reason)
        try:
            with import_lock(str(self._client.tracking_uri), results.sha256):
                return self._import_results(found, results)
        except RefusedFileError as error:
            return FileOutcome(found.results, ImportStatus.REFUSED, error.reason)
        except MlflowException as error:
            raise UnavailableError(f"MLflow did not take the import of {found.results}: {error.message}") from None

    def _import_results(self, found: FoundResults, results: ResultsFile) -> FileOutcome:
        there = self._runs.finished(results.sha256)
        if there is not None:
            return FileOutcome(
                found.results,
                ImportStatus.ALREADY,
                run_id=there.info.run_id,
                run_name=there.info.run_name,
                tasks=tuple(results.tasks),
            )
        model = self._models.link(model_of(results, self._scrubber), found.folders, found.results.parent)
        run = describe_run(results, model, self._scrubber, source="import", suite=self._options.suite)
        outcome = FileOutcome(found.results, ImportStatus.WOULD_IMPORT, run_name=run.name, model=model.label)
        if self._options.dry_run:
            told = _Outcome(outcome)
            for _ in self._read_tasks(found, results, told):
                pass  # read and let go: only what it says of itself is wanted
            return told.value
        return self._record(found, results, run, outcome)

    def _record(
        self, found: FoundResults, results: ResultsFile, run: ImportedRun, outcome: FileOutcome
    ) -> FileOutcome:
        writer = RunWriter(self._client, self._scrubber)
        experiment_id = experiment_named(self._client, self._options.experiment)
        run_id = writer.create(experiment_id, run, results.sha256)
        told = _Outcome(outcome)
        try:
            writer.describe(run_id, run)
            for importer, task in self._read_tasks(found, results, told):
                result = writer.record_task(run_id, importer, task)
                told.warn(task.name, (warning.name for warning in result.warnings))
            writer.finish(run_id, results, run, told.tasks)
            stays = self._runs.settle(results.sha256, run_id)
        except BaseException:
            with suppress(MlflowException):  # half a run is no record; the next import starts anew
                self._client.delete_run(run_id)
            raise
        if stays != run_id:
            return replace(told.value, status=ImportStatus.ALREADY, run_id=stays)
        self._on_recorded(run_id)
        return replace(told.value, status=ImportStatus.IMPORTED, run_id=run_id)

    def _read_tasks(
        self, found: FoundResults, results: ResultsFile, told: _Outcome
    ) -> Iterator[tuple[TaskImport, ImportedTask]]:
        options = ReadOptions(self._options.primary, self._options.policy, told.refuse, self._progress)
        for importer, task in read_tasks(found, results, self._scrubber, options):
            told.add(task)
            yield importer, task


class _Outcome:
    """The outcome of one results file while it is made."""

    def __init__(self, value: FileOutcome) -> None:
        self.value = value
        self.tasks: dict[str, ImportedTask] = {}

    def add(self, task: ImportedTask) -> None:
        """Note a task that was read."""
        self.tasks[task.name] = task
        self.value = replace(
            self.value, tasks=(*self.value.tasks, task.name), samples=self.value.samples + task.samples
        )
        self.warn(task.name, (warning.name for warning in task.warnings))

    def warn(self, task: str, names: Iterable[str]) -> None:
        """Note a task's warnings."""
        if told := tuple(map(str, names)):
            self.value = replace(self.value, warnings={**self.value.warnings, task: told})

    def refuse(self, error: RefusedFileError) -> None:
        """Note a samples file that was refused."""
        self.value = replace(self.value, refused=(*self.value.refused, (error.path, error.reason)))
