"""Several runs against a baseline: per task the difference, its interval and test, what more would tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from mlflow_lmms.analysis.holm import holm
from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.paired_difference import PairedDifference
from mlflow_lmms.analysis.power import documents_needed, smallest_detectable
from mlflow_lmms.score import Score, Vectors, compare, flags_of, incomparable


class Verdict(StrEnum):
    """What can be said of a candidate on a task, after Holm's correction over all tests of the comparison."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "no difference shown"
    DIFFERENT = "different"
    UNPAIRED = "no shared documents"
    NOT_COMPARABLE = "not comparable"
    MISSING = "no result"


@dataclass(frozen=True)
class TaskDifference:
    """Candidate minus baseline on one task, in the metric's own units; numbers are None where there is no test.

    Attributes:
        gain: the difference with its sign turned where lower is better: positive is good; None where neither is.
        adjusted: p-value after Holm's correction over the whole comparison.
        detectable: the smallest true difference that a test over as many documents finds in 4 of 5 cases.
        wins, losses: documents on which the candidate did better and worse.
        needed: documents that it takes to find a true difference as large as this one in 4 of 5 cases.
        reason: why the two may not be compared, in words.
        flagged: warnings that speak against one of the two results: the numbers hold, what they mean is in doubt.
    """

    verdict: Verdict
    value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    p_value: float | None = None
    adjusted: float | None = None
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    n: int | None = None
    detectable: float | None = None
    needed: int | None = None
    method: str | None = None
    reason: str | None = None
    flagged: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskComparison:
    """One task: the baseline's score, and each candidate against it by run id."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool | None
    baseline: Score
    candidates: Mapping[str, TaskDifference]


@dataclass(frozen=True)
class Comparison:
    """Runs against the first of them; `models` are their names by run id, `only` tasks that the baseline lacks."""

    baseline: str
    models: Mapping[str, str]
    tasks: tuple[TaskComparison, ...]
    only: Mapping[str, tuple[str, ...]]

    def counts(self, run_id: str) -> dict[Verdict, int]:
        """How many tasks a candidate is better, worse, and so on, on."""
        found = [task.candidates[run_id].verdict for task in self.tasks]
        return {verdict: found.count(verdict) for verdict in Verdict if verdict in found}

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "baseline": self.baseline,
            "models": dict(self.models),
            "level": LEVEL,
            "counts": {run_id: self.counts(run_id) for run_id in self.models if run_id != self.baseline},
            "tasks": [
                {
                    "task": task.task,
                    "metric": task.metric,
                    "filter": task.filter,
                    "higher_is_better": task.higher_is_better,
                    "baseline": {key: getattr(task.baseline, key) for key in ("value", "low", "high", "n")},
                    "candidates": {run_id: asdict(found) for run_id, found in task.candidates.items()},
                }
                for task in self.tasks
            ],
            "only": {run_id: list(tasks) for run_id, tasks in self.only.items()},
        }


def compare_with_baseline(
    run_ids: Sequence[str], scores: Iterable[Score], vectors: Vectors, tasks: Sequence[str] | None = None
) -> Comparison:
    """Compare runs with the first of them on every task that it has.

    Args:
        run_ids: at least two, the first is the baseline.
        scores: the primary scores of these runs.
        vectors: per-sample scores of a result, None where there are none.
        tasks: only these.
    """
    found: dict[str, dict[str, Score]] = {run_id: {} for run_id in run_ids}
    for score in scores:
        if score.run_id in found and (tasks is None or score.task in tasks):
            found[score.run_id][score.task] = score
    baseline, *candidates = run_ids
    rows = [
        TaskComparison(
            task,
            base.metric,
            base.filter,
            base.higher_is_better,
            base,
            {run_id: difference_of(base, found[run_id].get(task), vectors) for run_id in candidates},
        )
        for task, base in sorted(found[baseline].items())
    ]
    return Comparison(
        baseline,
        {run_id: next((score.model for score in found[run_id].values()), run_id) for run_id in run_ids},
        _corrected(rows),
        {run_id: tuple(sorted(found[run_id].keys() - found[baseline].keys())) for run_id in candidates},
    )


def difference_of(baseline: Score, candidate: Score | None, vectors: Vectors) -> TaskDifference:
    """Candidate minus baseline by itself; its verdict waits for `corrected`."""
    if candidate is None:
        return TaskDifference(Verdict.MISSING)
    if reason := incomparable(baseline, candidate):
        return TaskDifference(Verdict.NOT_COMPARABLE, candidate.value, reason=reason)
    flagged = tuple(dict.fromkeys((*flags_of(baseline), *flags_of(candidate))))
    paired = compare(baseline, candidate, vectors)
    if paired is None or not paired.n:
        reason = "without the scores of the same single documents nothing can be tested"
        by = candidate.value - baseline.value
        return TaskDifference(Verdict.UNPAIRED, candidate.value, by, reason=reason, flagged=flagged)
    return replace(_tested(paired, candidate.value, baseline.higher_is_better), flagged=flagged)


def _tested(paired: PairedDifference, value: float, higher_is_better: bool | None) -> TaskDifference:
    spread = paired.deviation if paired.deviation == paired.deviation else 0.0
    gain = None if higher_is_better is None else paired.difference if higher_is_better else -paired.difference
    return TaskDifference(
        Verdict.UNDECIDED,
        value=value,
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        gain=gain,
        p_value=paired.p_value,
        wins=paired.losses if higher_is_better is False else paired.wins,
        losses=paired.wins if higher_is_better is False else paired.losses,
        ties=paired.n - paired.wins - paired.losses,
        n=paired.n,
        detectable=smallest_detectable(spread, paired.n) if spread else None,
        needed=documents_needed(paired.difference, spread) if spread else None,
        method=paired.method,
    )


def _corrected(rows: Sequence[TaskComparison]) -> tuple[TaskComparison, ...]:
    """Holm over every test that the comparison shows, and the verdicts that follow from it."""
    found = iter(corrected([found for row in rows for found in row.candidates.values()]))
    return tuple(replace(row, candidates={run_id: next(found) for run_id in row.candidates}) for row in rows)


def corrected(differences: Sequence[TaskDifference]) -> list[TaskDifference]:
    """Holm over all of them that have a test, and the verdicts that follow from it."""
    adjusted = iter(holm([found.p_value for found in differences if found.p_value is not None]))
    return [
        found
        if found.p_value is None
        else replace(found, adjusted=(p_value := next(adjusted)), verdict=_verdict(found, p_value))
        for found in differences
    ]


def _verdict(found: TaskDifference, adjusted: float) -> Verdict:
    if adjusted >= 1 - LEVEL:
        return Verdict.UNDECIDED
    if found.gain is None:
        return Verdict.DIFFERENT
    return Verdict.BETTER if found.gain > 0 else Verdict.WORSE
