"""Reads the tasks of one results file one by one; the files of a task live until the next one is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_lmms.importing.discovery import FoundResults
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.importing.results_file import ResultsFile
from mlflow_lmms.importing.task_import import ImportedTask, TaskImport, TaskOptions
from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.scrubbing import Scrubber

#: Told the results file, the task and how many lines of its samples have been read.
Progress = Callable[[Path, str, int], None]


def raise_refused(error: RefusedFileError) -> None:
    """What is done with a refused samples file where nobody asks for anything else."""
    raise error


@dataclass(frozen=True)
class ReadOptions:
    """How tasks are read; `primary` is ``metric`` or ``metric:filter`` by task."""

    primary: Mapping[str, str] = field(default_factory=dict)
    policy: ErroredPolicy = field(default_factory=ErroredPolicy)
    on_refused: Callable[[RefusedFileError], None] = raise_refused
    progress: Progress = lambda path, task, lines: None


def read_tasks(
    found: FoundResults, results: ResultsFile, scrubber: Scrubber, options: ReadOptions
) -> Iterator[tuple[TaskImport, ImportedTask]]:
    """Read every task with its samples file; one whose samples file is refused is read without it.

    Raises:
        RefusedFileError: no task is left.
    """
    for told, path in found.samples.items():
        if told not in results.tasks:
            options.on_refused(RefusedFileError(path, "the results file beside it says nothing of this task"))
    failed: list[str] = []
    for name in results.tasks:
        samples = found.samples.get(name)
        with tempfile.TemporaryDirectory(prefix="lmms-import-") as folder:
            importer = TaskImport(results, Path(folder) / "out", scrubber)
            try:
                task = _read(importer, results, name, samples, options, Path(folder) / "first")
            except RefusedFileError as error:
                options.on_refused(error)
                task = _read(importer, results, name, None, options, Path(folder) / "second")
            if task.failed:
                failed.append(f"task {name}: {task.failed}")
                options.on_refused(RefusedFileError(samples or results.path, failed[-1]))
                continue
            yield importer, task
    if len(failed) == len(results.tasks):
        raise RefusedFileError(results.path, f"none of its tasks could be imported: {'; '.join(failed)}")


def _read(
    importer: TaskImport, results: ResultsFile, name: str, samples: Path | None, options: ReadOptions, scratch: Path
) -> ImportedTask:
    def progress(lines: int) -> None:
        options.progress(results.path, name, lines)

    scratch.mkdir()
    progress(0)
    own = TaskOptions(primary=options.primary.get(name), policy=options.policy)
    return importer.read(results.tasks[name], samples, own, scratch, progress)
