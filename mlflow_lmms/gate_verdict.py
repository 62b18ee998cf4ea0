"""The gate: is a candidate no worse than a baseline on each task, over the suite, and in each group? Pure.

Nothing passes unseen: a result that is missing, partial, flagged or of another kind than the baseline's leaves its
question open, whatever its numbers say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.non_inferiority import Outcome, judge_gain, worst
from mlflow_lmms.analysis.weighted_gain import TaskGain, weighted_gain
from mlflow_lmms.gate_rules import TaskRule
from mlflow_lmms.gate_task import Allowed, Guard, TaskGate, judge_task
from mlflow_lmms.score import Score, Vectors


@dataclass(frozen=True)
class MeanGate:
    """The suite as a whole: the weighted mean of the gains, each as a share of its metric's scale."""

    outcome: Outcome
    reason: str
    counted: int
    of: int
    margin: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Gate:
    """The verdict: the worst of tasks, mean and groups."""

    outcome: Outcome
    mean: MeanGate
    tasks: tuple[TaskGate, ...]
    lenient_slices: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        judged = [task.outcome for task in self.tasks]
        groups = [group.outcome for task in self.tasks for group in task.groups]
        return {
            "outcome": self.outcome,
            "exit_code": self.outcome.exit_code,
            "level": LEVEL,
            "counts": {outcome: judged.count(outcome) for outcome in Outcome},
            "group_counts": {outcome: groups.count(outcome) for outcome in Outcome}
            | {"not judged": groups.count(None)},
            "lenient_slices": self.lenient_slices,
            "mean": asdict(self.mean),
            "tasks": [asdict(task) for task in self.tasks],
        }


def run_gate(
    baseline: Mapping[str, Score],
    candidate: Mapping[str, Score],
    rules: Sequence[TaskRule],
    vectors: Vectors,
    guard: Guard,
    *,
    suite_margin: float | None = None,
    partial: bool = False,
    flagged: bool = False,
    lenient_slices: bool = False,
) -> Gate:
    """Judge the candidate.

    Args:
        baseline, candidate: the result of each task that they have one of.
        suite_margin: acceptable loss of the weighted mean as a share of the scale; None: the mean of the tasks'.
        partial, flagged: whether such results may pass.
        lenient_slices: whether groups with too few documents to say may pass.
    """
    allowed = Allowed(partial, flagged)
    tasks = tuple(
        judge_task(rule, baseline.get(rule.task), candidate.get(rule.task), vectors, guard, allowed) for rule in rules
    )
    documents = {task: score.fingerprint.get("dataset") for task, score in baseline.items()}
    mean = _mean(tasks, documents, suite_margin)
    groups = [group.outcome for task in tasks for group in task.groups if group.outcome is not None]
    if lenient_slices:
        groups = [outcome for outcome in groups if outcome is not Outcome.INCONCLUSIVE]
    return Gate(worst([*(task.outcome for task in tasks), mean.outcome, *groups]), mean, tasks, lenient_slices)


def _mean(tasks: Sequence[TaskGate], documents: Mapping[str, Any], margin: float | None) -> MeanGate:
    parts, margins = [], []
    for task in tasks:
        scale = task.scale_high
        if task.gain is None or task.low is None or task.high is None or task.margin is None or not scale:
            continue
        shared = documents.get(task.task)
        told = str(shared) if shared else None
        parts.append(TaskGain(task.gain / scale, task.low / scale, task.high / scale, task.weight, told))
        margins.append(task.weight * task.margin / scale)
    if not parts:
        return MeanGate(Outcome.INCONCLUSIVE, "no task can be counted", 0, len(tasks), margin)
    found = weighted_gain(parts)
    allowed = margin if margin is not None else sum(margins) / sum(part.weight for part in parts)
    judged = judge_gain(found.low, found.high, allowed)
    outcome, reason = judged.outcome, judged.reason
    if len(parts) < len(tasks):
        outcome = Outcome.INCONCLUSIVE
        reason = f"{len(tasks) - len(parts)} of {len(tasks)} tasks cannot be counted; of the others {reason}"
    return MeanGate(outcome, reason, len(parts), len(tasks), allowed, found.gain, found.low, found.high)
