"""What a run tells of all its tasks together: merged files, warnings, groups; made anew after every task.

Owns the making: the tasks' own results in the run are the truth, read back from it, so that several workers that
record tasks of one run leave a complete whole, whoever writes last.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient

from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.group_results import GroupScores, group_documents, read_group_definitions, run_groups
from mlflow_lmms.merged_results import write_results, write_slices
from mlflow_lmms.names import Artifact, MetricName, Tag
from mlflow_lmms.reading.group_scores import GroupDefinition, GroupScore
from mlflow_lmms.task_result import TaskResult, read_task_result

_MOST_ROUNDS = 10
_TAG_CHARACTERS = 5000  # of MLflow's 8,000, which some of its stores count in bytes
_TASKS = str(Path(Artifact.task_result("any")).parent)

Named = list[tuple[MetricName, float]]

logger = logging.getLogger(__name__)


class RunSummary:
    """Keeps the summary of runs; results are remembered for one run, since its tasks come one after the other."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._run_id = ""
        self._known: dict[str, tuple[int, TaskResult]] = {}
        self._groups: list[GroupDefinition] = []

    def update(self, run_id: str, fresh: TaskResult) -> Named:
        """Take a task in that was just stored; return the scores of the groups that it belongs to."""
        self._turn_to(run_id)
        self._known.pop(Artifact.task_result(fresh.task), None)  # another attempt's may be of the same size
        results, groups = self._rebuild()
        recorded = {result.task for result in results}
        names = {group.name: group for group in self._groups}
        return [
            named
            for name, own in groups.items()
            if fresh.task in (tasks := _tasks(names[name], names)) and tasks <= recorded
            for named in _named(name, own)
        ]

    def update_groups(self, run_id: str, definitions: Sequence[GroupDefinition]) -> Named:
        """Take these groups for the run's; return all their scores."""
        self._turn_to(run_id)
        self._groups = list(definitions)
        _, groups = self._rebuild()
        return [named for name, own in groups.items() for named in _named(name, own)]

    def _turn_to(self, run_id: str) -> None:
        if run_id != self._run_id:
            self._known = {}
            self._groups = self._definitions(run_id)
            self._run_id = run_id

    def _definitions(self, run_id: str) -> list[GroupDefinition]:
        """The groups that the run was asked for."""
        there = {file.path for file in self._client.list_artifacts(run_id, Artifact.ROOT)}
        if Artifact.REQUEST not in there:
            return []
        with tempfile.TemporaryDirectory() as folder:
            try:
                return read_group_definitions(Path(self._client.download_artifacts(run_id, Artifact.REQUEST, folder)))
            except ValueError as error:
                logger.warning("no groups of run %s are computed: %s", run_id, error)
                return []

    def _rebuild(self) -> tuple[list[TaskResult], GroupScores]:
        """Make the merged files until no other task has come in the meantime."""
        there = self._stored()
        for _ in range(_MOST_ROUNDS):
            results = self._read(there)
            groups = run_groups(self._groups, results)
            self._write(results, groups)
            before, there = there, self._stored()
            if there == before:
                break
        return results, groups

    def _stored(self) -> dict[str, int]:
        files = self._client.list_artifacts(self._run_id, _TASKS)
        return {file.path: file.file_size or 0 for file in files if not file.is_dir}

    def _read(self, there: Mapping[str, int]) -> list[TaskResult]:
        found = []
        for path, size in sorted(there.items()):
            if path not in self._known or self._known[path][0] != size:
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        result = read_task_result(Path(self._client.download_artifacts(self._run_id, path, folder)))
                    except UnreadableOutputError as error:
                        logger.warning("%s of run %s is left out of its summary: %s", path, self._run_id, error)
                        continue
                self._known[path] = (size, result)
            found.append(self._known[path][1])
        return found

    def _write(self, results: Sequence[TaskResult], groups: GroupScores) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_results(Path(folder) / Path(Artifact.RESULTS).name, results, group_documents(groups))
            write_slices(Path(folder) / Path(Artifact.SLICES).name, results)
            self._client.log_artifacts(self._run_id, folder, Artifact.ROOT)
        self._client.set_tag(self._run_id, Tag.WARNINGS, _warnings(results))


def _warnings(results: Sequence[TaskResult]) -> str:
    """The names of all warnings by task, as far as MLflow's tag holds them; the whole stands with each task."""
    told: dict[str, list[str]] = {}
    for result in results:
        if not result.warnings:
            continue
        names = list(dict.fromkeys(warning.name for warning in result.warnings))
        if len(json.dumps({**told, result.task: names})) > _TAG_CHARACTERS:
            break
        told[result.task] = names
    return json.dumps(told)


def _tasks(
    group: GroupDefinition, groups: Mapping[str, GroupDefinition], inside: frozenset[str] = frozenset()
) -> set[str]:
    found: set[str] = set()
    for member in group.members:
        if member not in groups:
            found.add(member)
        elif member not in inside:
            found |= _tasks(groups[member], groups, inside | {member})
    return found


def _named(group: str, scores: Sequence[GroupScore]) -> Named:
    named: Named = []
    for score in scores:
        if score.value is not None:
            name = MetricName(group, score.metric, score.filter)
            named += [(name, score.value), (name.of("n"), float(score.n))]
    return named
