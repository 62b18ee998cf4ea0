"""Whether a candidate is worse than a baseline in some group of documents, by more than a margin. Pure.

Each group passes by itself, so that all pass only when each does (Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling", Technometrics 24); to fail, a group must be proven worse after Holm's correction over all
groups, so that many groups do not make a false alarm likely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlflow_lmms.analysis.groups import FEWEST_JUDGED, Groups
from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.non_inferiority import Judgement, Outcome, judge
from mlflow_lmms.analysis.paired_difference import PairedDifference, paired_difference

Values = NDArray[np.float64]
Clusters = NDArray[np.int64]


@dataclass(frozen=True)
class SliceJudgement:
    """Candidate against baseline in one group: `gain` and its 95 % interval, turned so that positive is good.

    `outcome` is None where the group has too few documents (`n`) to be judged; `reason` says why it is what it is.
    """

    dimension: str
    value: str
    n: int
    gain: float
    low: float
    high: float
    outcome: Outcome | None
    reason: str


def judge_slices(
    first: Values,
    second: Values,
    dimensions: Mapping[str, Groups],
    margin: float,
    *,
    higher_is_better: bool = True,
    factor: float = 1.0,
    clusters: Clusters | None = None,
    fewest: int = FEWEST_JUDGED,
) -> tuple[SliceJudgement, ...]:
    """Judge every group of every dimension that has a document with both scores.

    Args:
        first, second: scores of baseline and candidate, shape (n,), aligned by document, finite.
        dimensions: by name, aligned with the scores.
        margin: the loss in a group that is acceptable, in units of `factor` times the scores.
        clusters: which documents belong together, shape (n,).
    """
    groups = [
        _Group(dimension, name, first[members], second[members], None if clusters is None else clusters[members])
        for dimension, cut in dimensions.items()
        for name, members in cut.members()
    ]
    judged = [group for group in groups if len(group.first) >= fewest]
    told = {id(group): group.judged(margin, higher_is_better, factor) for group in judged}
    for group, judgement in _proven_worse(judged, margin, higher_is_better, factor):
        told[id(group)] = judgement
    return tuple(group.told(told.get(id(group)), higher_is_better, factor, fewest) for group in groups)


@dataclass(frozen=True)
class _Group:
    dimension: str
    value: str
    first: Values
    second: Values
    clusters: Clusters | None

    def difference(self, factor: float, level: float = LEVEL) -> PairedDifference:
        return paired_difference(self.first, self.second, self.clusters, level).times(factor)

    def judged(self, margin: float, higher_is_better: bool, factor: float) -> Judgement:
        """By itself; a failure is not yet one, because it has not been corrected for the other groups."""
        found = judge(self.difference(factor), margin, higher_is_better=higher_is_better)
        if found.outcome is not Outcome.FAIL:
            return found
        return Judgement(Outcome.INCONCLUSIVE, f"{found.reason}: not proven among so many groups")

    def told(self, judgement: Judgement | None, higher_is_better: bool, factor: float, fewest: int) -> SliceJudgement:
        found = self.difference(factor)
        sign = 1.0 if higher_is_better else -1.0
        low, high = sorted((sign * found.low, sign * found.high))
        outcome = judgement.outcome if judgement else None
        reason = judgement.reason if judgement else f"fewer than {fewest} documents: shown, not judged"
        return SliceJudgement(
            self.dimension, self.value, found.n, sign * found.difference, low, high, outcome, reason
        )


def _proven_worse(
    groups: list[_Group], margin: float, higher_is_better: bool, factor: float
) -> list[tuple[_Group, Judgement]]:
    """Holm's steps with intervals for tests: as long as some fail at the level for so many, ask the rest again."""
    left, failed = list(groups), list[tuple[_Group, Judgement]]()
    while left:
        level = 1 - (1 - LEVEL) / len(left)
        asked = [
            (group, judge(group.difference(factor, level), margin, higher_is_better=higher_is_better))
            for group in left
        ]
        fresh = [(group, judgement) for group, judgement in asked if judgement.outcome is Outcome.FAIL]
        if not fresh:
            break
        failed += fresh
        left = [group for group, judgement in asked if judgement.outcome is not Outcome.FAIL]
    return failed
