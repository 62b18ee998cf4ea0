"""Whether the results of two runs may be compared, task by task. Pure: two MLflow runs in, findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run

from mlflow_lmms.comparability import Comparability, Verdict, compare_fingerprints
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.names import Tag
from mlflow_lmms.recorded_run import model_label, recorded_tasks, tag_object
from mlflow_lmms.score import REPORTED


@dataclass(frozen=True)
class RunComparison:
    """What can be said of each task that both runs have; a task of one run alone is only named."""

    first: str
    second: str
    tasks: dict[str, Comparability]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Of all shared tasks together: the worst that is said of one."""
        found = {comparability.verdict for comparability in self.tasks.values()}
        worst_first = (Verdict.NOT_COMPARABLE, Verdict.UNKNOWN, Verdict.COMPARABLE)
        return next((verdict for verdict in worst_first if verdict in found), Verdict.UNKNOWN)

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "first": self.first,
            "second": self.second,
            "verdict": self.verdict,
            "tasks": {
                task: {"verdict": found.verdict, "reasons": list(found.reasons)} for task, found in self.tasks.items()
            },
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


def compare_runs(first: Run, second: Run, task: str | None = None) -> RunComparison:
    """Compare what two runs' results were made of.

    Args:
        task: look at this task alone.

    Raises:
        NotFoundError: one of the runs has no result of the task.
    """
    one, two = recorded_tasks(first.data.tags), recorded_tasks(second.data.tags)
    if task is not None:
        for run, tasks in ((first, one), (second, two)):
            if task not in tasks:
                has = ", ".join(tasks[:20]) or "no results"
                raise NotFoundError(f"run {run.info.run_id} has no result of task {task!r}; it has {has}")
        one = two = [task]
    return RunComparison(
        first=model_label(first),
        second=model_label(second),
        tasks={name: _compare(first, second, name) for name in one if name in two},
        only_first=tuple(name for name in one if name not in two),
        only_second=tuple(name for name in two if name not in one),
    )


def _compare(first: Run, second: Run, task: str) -> Comparability:
    if REPORTED in (first.data.tags.get(Tag.SOURCE), second.data.tags.get(Tag.SOURCE)):
        return Comparability(Verdict.UNKNOWN, ("a published score does not tell what it was made of",))
    chosen = [tag_object(run.data.tags, Tag.primary(task)) for run in (first, second)]
    names = [(told.get("metric"), told.get("filter")) for told in chosen]
    if all(metric is not None for metric, _ in names) and names[0] != names[1]:
        (one, one_filter), (two, two_filter) = names
        reason = f"one result is scored by {one} ({one_filter}), the other by {two} ({two_filter})"
        return Comparability(Verdict.NOT_COMPARABLE, (reason,))
    told = [tag_object(run.data.tags, Tag.fingerprint(task)) for run in (first, second)]
    return compare_fingerprints(*told)
