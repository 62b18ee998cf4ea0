"""Results of an lmms-eval run that a script made itself, logged into the script's own MLflow run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.importing.discovery import FoundResults, discover
from mlflow_lmms.importing.index_run import index_run
from mlflow_lmms.importing.model_map import linked
from mlflow_lmms.importing.read_tasks import ReadOptions, read_tasks
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.importing.results_file import read_results_file
from mlflow_lmms.importing.run_facts import describe_run, model_of
from mlflow_lmms.importing.run_writer import RunWriter
from mlflow_lmms.importing.scrubbed import scrubber_for_files
from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.registry import find_version


def log_results(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    suite: str | None = None,
    primary: Mapping[str, str] | None = None,
    errored: ErroredPolicy | None = None,
    run_id: str | None = None,
) -> str:
    """Log a results file of lmms-eval or lm-eval, with its samples, into the active MLflow run.

    Args:
        path: the results file, or a folder with exactly one below it.
        model: the registered version that was evaluated, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        suite: name under which the tasks are shown together.
        primary: ``metric`` or ``metric:filter`` by task, where the rules would choose another one.
        errored: what to do with errored samples.
        run_id: the run to log into, where it is not the active one.

    Returns:
        The run's id.

    Raises:
        InvalidRequestError: there is no active run, or not exactly one results file.
        RefusedFileError: a file is not sound; the run keeps what was logged before.
    """
    active = mlflow.active_run()
    if run_id is None and active is None:
        raise InvalidRequestError("there is no active MLflow run: call log_results inside mlflow.start_run()")
    chosen = run_id or str(active.info.run_id if active else "")
    found = _only_results(Path(path))
    client = MlflowClient()
    scrubber = scrubber_for_files()
    results = read_results_file(found.results)
    named = model_of(results, scrubber)
    if model is not None:
        named = linked(named, find_version(client, model))
    described = describe_run(results, named, scrubber, source="client", suite=suite)
    writer = RunWriter(client, scrubber)
    writer.describe(chosen, described)
    described = writer.adopt(chosen, described, results.sha256)
    tasks = {}
    options = ReadOptions(primary or {}, errored or ErroredPolicy())
    for importer, task in read_tasks(found, results, scrubber, options):
        writer.record_task(chosen, importer, task)
        tasks[task.name] = task
    writer.finish(chosen, results, described, tasks, end=False)
    index_run(str(client.tracking_uri), chosen)
    return chosen


def _only_results(path: Path) -> FoundResults:
    found = discover([path])
    if found.refused:
        raise RefusedFileError(*found.refused[0])
    if len(found.runs) != 1:
        several = ", ".join(str(one.results) for one in found.runs[:3])
        told = f"{len(found.runs)} of them ({several}, …): name the one to log" if found.runs else "none"
        raise InvalidRequestError(f"expected one results file of lmms-eval at or below {path}, found {told}")
    return found.runs[0]
