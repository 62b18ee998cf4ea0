"""Writes one imported run into MLflow: the run itself, each task through `RunRecorder`, groups and files.

Owns what is written in which order: a run says that it is finished only when everything of it is there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

from mlflow_lmms.importing.groups import group_definitions
from mlflow_lmms.importing.json_files import plain
from mlflow_lmms.importing.results_file import ResultsFile
from mlflow_lmms.importing.run_facts import ImportedRun
from mlflow_lmms.importing.scrubbed import scrub_tree
from mlflow_lmms.importing.task_import import ImportedTask, TaskImport
from mlflow_lmms.names import Artifact, Tag
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.scrubbing import Scrubber
from mlflow_lmms.states import State
from mlflow_lmms.task_result import TaskResult

#: The results file as it was imported, without its secrets.
SOURCE_FILE = "imported_results.json"
_ENVIRONMENT = (
    "lmms_eval_version", "lm_eval_version", "git_hash", "git_branch", "transformers_version", "pretty_env_info",
    "throughput", "usage", "efficiency", "upper_git_hash", "tokenizer_pad_token", "total_evaluation_time_seconds",
)  # fmt: skip


class RunWriter:
    """Writes runs; one object for one run after the other."""

    def __init__(self, client: MlflowClient, scrubber: Scrubber) -> None:
        self._client = client
        self._scrubber = scrubber
        self._recorder = RunRecorder(client)

    def create(self, experiment_id: str, run: ImportedRun, key: str) -> str:
        """Make the run, in the time of its evaluation; return its id."""
        made = self._client.create_run(
            experiment_id,
            start_time=int(run.started_at * 1000),
            tags={**run.tags, Tag.IMPORT_KEY: key},
            run_name=run.name,
        )
        return str(made.info.run_id)

    def describe(self, run_id: str, run: ImportedRun) -> None:
        """Write the run's params, where the run has none of the same name."""
        there = self._client.get_run(run_id).data.params
        params = [Param(name, value) for name, value in run.params.items() if name not in there]
        self._client.log_batch(run_id, params=params)

    def adopt(self, run_id: str, run: ImportedRun, key: str) -> ImportedRun:
        """Tag a run that somebody else made; tasks that are logged in it already stay."""
        tags = {**run.tags, Tag.IMPORT_KEY: key}
        there = self._client.get_run(run_id).data.tags.get(Tag.TASKS, "")
        tags[Tag.TASKS] = ",".join(dict.fromkeys(filter(None, [*there.split(","), *tags[Tag.TASKS].split(",")])))
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return replace(run, tags=tags)

    def record_task(self, run_id: str, importer: TaskImport, task: ImportedTask) -> TaskResult:
        """Record one task; what is returned has the warnings that earlier runs call for, too."""
        result = self._recorder.record_task(run_id, importer.write(task), 1)
        self._client.set_tag(run_id, Tag.task_state(task.name), str(State.FINISHED))
        return result

    def finish(
        self,
        run_id: str,
        results: ResultsFile,
        run: ImportedRun,
        tasks: Mapping[str, ImportedTask],
        *,
        end: bool = True,
    ) -> None:
        """Write groups and files, and then that the run is whole; `end`: MLflow's run ends too."""
        self._recorder.record_groups(
            run_id, group_definitions(results, {name: task.metrics for name, task in tasks.items()})
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            environment = {name: results.content[name] for name in _ENVIRONMENT if name in results.content}
            self._write(folder / Path(Artifact.ENVIRONMENT).name, environment)
            self._write(folder / SOURCE_FILE, dict(results.content))
            self._client.log_artifacts(run_id, scratch, Artifact.ROOT)
        if end:
            self._client.set_tag(run_id, Tag.TASKS, ",".join(tasks)[:5000])
        self._client.set_tag(run_id, Tag.STATE, str(State.FINISHED))
        if end:
            self._client.set_terminated(run_id, "FINISHED", end_time=int(run.ended_at * 1000))

    def _write(self, file: Path, content: Mapping[str, object]) -> None:
        text = json.dumps(scrub_tree(self._scrubber, plain(dict(content))), ensure_ascii=False, indent=1)
        file.write_text(text, encoding="utf-8")
