"""Scores of groups of documents against each other: gap to the rest and to the best, worst group, ratio. Pure.

A gap to the rest is judged after Holm's correction over all groups asked about. The best group is picked by its
score, so a gap to it is corrected for every pair of groups of its dimension (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlflow_lmms.analysis.estimates import Estimate, p_value
from mlflow_lmms.analysis.group_estimates import GroupEstimate
from mlflow_lmms.analysis.groups import FEWEST_JUDGED
from mlflow_lmms.analysis.holm import holm
from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.slice_guard import SliceJudgement, judge_slices

__all__ = ["Dimension", "Gap", "Group", "SliceJudgement", "compare_groups", "judge_slices"]


@dataclass(frozen=True)
class Gap:
    """A difference of scores with its 95 % interval; `adjusted` is its p-value after correction."""

    value: float
    low: float
    high: float
    p_value: float
    adjusted: float | None = None

    @property
    def shown(self) -> bool:
        """Whether there is a gap beyond chance."""
        return self.adjusted is not None and self.adjusted < 1 - LEVEL

    @staticmethod
    def of(estimate: Estimate) -> Gap:
        """The gap that an estimate tells."""
        low, high = estimate.interval(LEVEL)
        return Gap(estimate.value, low, high, p_value(estimate))

    def times(self, factor: float) -> Gap:
        """The same in other units."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class Group:
    """One group of a dimension. `judged` is false where it has too few documents; then it has no gaps."""

    name: str
    n: int
    score: float
    low: float | None
    high: float | None
    judged: bool
    to_rest: Gap | None = None
    to_best: Gap | None = None


@dataclass(frozen=True)
class Dimension:
    """The groups of one dimension.

    Attributes:
        best, worst: of the judged groups, None where there are fewer than two or no score is the better one.
        gap: between the highest and the lowest score of judged groups.
        ratio: the lowest score over the highest, 1 where all are alike; None where a score is negative or all are 0.
    """

    name: str
    groups: tuple[Group, ...]
    best: str | None
    worst: str | None
    gap: float | None
    ratio: float | None


def compare_groups(
    dimensions: Mapping[str, Sequence[GroupEstimate]],
    *,
    higher_is_better: bool | None,
    factor: float = 1.0,
    fewest: int = FEWEST_JUDGED,
) -> tuple[Dimension, ...]:
    """Compare the groups of each dimension.

    Args:
        higher_is_better: None where neither is; then no group is best or worst.
        factor: turns the estimates into the units that are shown.
        fewest: documents from which a group is judged.
    """
    found = [
        _dimension(name, groups, higher_is_better, factor, fewest) for name, groups in dimensions.items() if groups
    ]
    return _corrected(found)


def _dimension(
    name: str, groups: Sequence[GroupEstimate], higher_is_better: bool | None, factor: float, fewest: int
) -> Dimension:
    judged = [group for group in groups if group.n >= fewest]
    best = worst = None
    if len(judged) > 1 and higher_is_better is not None:
        ordered = sorted(judged, key=lambda group: group.score, reverse=higher_is_better)
        best, worst = ordered[0].name, ordered[-1].name
    pairs = len(judged) * (len(judged) - 1) // 2
    scores = [group.score * factor for group in judged]
    return Dimension(
        name,
        tuple(_group(group, best if group in judged else None, pairs, factor, fewest) for group in groups),
        best,
        worst,
        max(scores) - min(scores) if len(scores) > 1 else None,
        min(scores) / max(scores) if len(scores) > 1 and min(scores) >= 0 and max(scores) > 0 else None,
    )


def _group(group: GroupEstimate, best: str | None, pairs: int, factor: float, fewest: int) -> Group:
    judged = group.n >= fewest
    low, high = group.estimate.interval(LEVEL) if group.estimate is not None and group.n > 1 else (None, None)
    rest = group.against(None) if judged else None
    to_best = group.against(best) if best is not None and best != group.name else None
    gap = None if to_best is None else Gap.of(to_best).times(factor)
    return Group(
        group.name,
        group.n,
        group.score * factor,
        None if low is None else low * factor,
        None if high is None else high * factor,
        judged,
        to_rest=None if rest is None else Gap.of(rest).times(factor),
        to_best=gap and replace(gap, adjusted=min(1.0, gap.p_value * pairs)),
    )


def _corrected(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Holm over the gaps to the rest of all dimensions."""
    gaps = [group.to_rest for found in dimensions for group in found.groups if group.to_rest is not None]
    adjusted = iter(holm([gap.p_value for gap in gaps]))
    return tuple(
        replace(
            found,
            groups=tuple(
                group
                if group.to_rest is None
                else replace(group, to_rest=replace(group.to_rest, adjusted=next(adjusted)))
                for group in found.groups
            ),
        )
        for found in dimensions
    )
