"""The gate's question of one task: may its result be trusted, and is the loss within the margin? Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mlflow_lmms.analysis.non_inferiority import Outcome, judge_gain
from mlflow_lmms.gate_gain import measured_gain
from mlflow_lmms.gate_rules import Loss, TaskRule
from mlflow_lmms.score import REPORTED, Score, Vectors, flags_of, incomparable


class GroupJudgement(Protocol):
    """What is said of one group of documents; `outcome` None: too few of them to be judged."""

    @property
    def dimension(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def gain(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def reason(self) -> str: ...


#: (baseline, candidate, margin, dimensions) → what can be said of each group; none where there are no groups.
Guard = Callable[[Score, Score, float, Sequence[str]], Sequence[GroupJudgement]]


@dataclass(frozen=True)
class GroupGate:
    """One group of documents of a task, or a dimension whose groups cannot be looked at."""

    dimension: str
    value: str
    outcome: Outcome | None
    reason: str
    n: int | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TaskGate:
    """One task. Gains are candidate minus baseline in the metric's own units, turned where lower is better.

    Attributes:
        margin: the acceptable loss in the metric's own units.
        low, high: interval of the gain; documents that only one of the two has a score for count as lost in `low`.
        scale_high: what turns gains into shares of the scale.
        flags: why the result may not be trusted, by name.
    """

    task: str
    outcome: Outcome
    reason: str
    weight: float
    metric: str | None = None
    filter: str | None = None
    higher_is_better: bool | None = None
    baseline: float | None = None
    candidate: float | None = None
    baseline_run: str | None = None
    candidate_run: str | None = None
    margin: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unpaired: int | None = None
    method: str | None = None
    scale_high: float | None = None
    flags: tuple[str, ...] = ()
    slice_margin: float | None = None
    groups: tuple[GroupGate, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """Which doubtful results may pass all the same."""

    partial: bool
    flagged: bool

    def doubts(self, rule: TaskRule, baseline: Score, candidate: Score) -> str | None:
        """Why the two results settle nothing, whatever their numbers are; None when they may."""
        if reason := incomparable(baseline, candidate):
            return reason
        if rule.primary is not None and rule.primary not in (
            candidate.metric,
            f"{candidate.metric}:{candidate.filter}",
        ):
            return f"scored by {candidate.metric} ({candidate.filter}), the suite wants {rule.primary}"
        for who, score in (("candidate", candidate), ("baseline", baseline)):
            if score.source == REPORTED:
                return f"the {who}'s score is a published one, without documents to compare"
            if score.partial and not self.partial:
                return f"the {who}'s result is over a part of the documents"
            if (flags := flags_of(score)) and not self.flagged:
                return f"the {who}'s result is flagged: {', '.join(flags).replace('_', ' ')}"
        if candidate.higher_is_better is None:
            return f"whether a higher {candidate.metric} is better is not known"
        return None


def judge_task(
    rule: TaskRule, baseline: Score | None, candidate: Score | None, vectors: Vectors, guard: Guard, allowed: Allowed
) -> TaskGate:
    """Judge one task; a result that may not be trusted, or is not there, leaves it open."""
    if baseline is None or candidate is None:
        lacking = [who for who, score in (("candidate", candidate), ("baseline", baseline)) if score is None]
        reason = f"the {' and the '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no result"
        return _told(rule, baseline, candidate, Outcome.INCONCLUSIVE, reason)
    if doubt := allowed.doubts(rule, baseline, candidate):
        return _told(rule, baseline, candidate, Outcome.INCONCLUSIVE, doubt)
    margin = rule.margin.in_units(candidate.scale_high)
    if margin is None:
        reason = f"the scale of {candidate.metric} is not known: give the task a margin in its own units"
        return _told(rule, baseline, candidate, Outcome.INCONCLUSIVE, reason)
    measured = measured_gain(baseline, candidate, vectors)
    if measured is None:
        reason = "neither scores of the same documents nor intervals of both results are there"
        return _told(rule, baseline, candidate, Outcome.INCONCLUSIVE, reason, margin=margin)
    judged = judge_gain(measured.low, measured.high, margin)
    reason = judged.reason
    if measured.unpaired:
        reason += f"; {measured.unpaired:,} documents that one of them alone has a score for count as lost"
    slice_margin = rule.slices.in_units(candidate.scale_high) if rule.slices else None
    groups = _groups(rule.slices, slice_margin, baseline, candidate, rule.dimensions, guard)
    return _told(
        rule,
        baseline,
        candidate,
        judged.outcome,
        reason,
        margin=margin,
        **asdict(measured),
        slice_margin=slice_margin,
        groups=groups,
    )


def _told(
    rule: TaskRule, baseline: Score | None, candidate: Score | None, outcome: Outcome, reason: str, **told: Any
) -> TaskGate:
    named = candidate or baseline
    about = (
        {key: getattr(named, key) for key in ("metric", "filter", "higher_is_better", "scale_high")} if named else {}
    )
    return TaskGate(
        task=rule.task,
        outcome=outcome,
        reason=reason,
        weight=rule.weight,
        baseline=baseline.value if baseline else None,
        candidate=candidate.value if candidate else None,
        baseline_run=baseline.run_id if baseline else None,
        candidate_run=candidate.run_id if candidate else None,
        flags=tuple(flags_of(candidate)) if candidate else (),
        **about,
        **told,
    )


def _groups(
    asked: Loss | None,
    margin: float | None,
    baseline: Score,
    candidate: Score,
    dimensions: Sequence[str],
    guard: Guard,
) -> tuple[GroupGate, ...]:
    if asked is None:
        return ()
    if margin is None:
        return (GroupGate("", "", Outcome.INCONCLUSIVE, "the margin of groups takes a scale, which is not known"),)
    found = guard(baseline, candidate, margin, dimensions)
    groups = [
        GroupGate(one.dimension, one.value, one.outcome, one.reason, one.n, one.gain, one.low, one.high)
        for one in found
    ]
    shown = {group.dimension for group in groups}
    unseen = [name for name in dimensions if name not in shown] if dimensions else [] if shown else [""]
    reason = "the two results have no such groups in common: nothing can be said of them"
    return (*groups, *(GroupGate(name, "", Outcome.INCONCLUSIVE, reason) for name in unseen))
