"""What is known of each group of documents, from sums, bootstraps, clustered scores, or two models. Pure.

Groups of one dimension share no document, so their scores are independent; the rest of a group is all other groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mlflow_lmms.analysis.estimates import Difference, Estimate, Mean, PairedShares, Share, Told, WithError
from mlflow_lmms.analysis.groups import FEWEST_JUDGED, Groups
from mlflow_lmms.analysis.mean_interval import is_binary

Values = NDArray[np.float64]
Clusters = NDArray[np.int64]
Places = NDArray[np.int64]
#: Gap of a group to another, or (None) to all the others; None where nothing is known of it.
Against = Callable[[str | None], Estimate | None]


@dataclass(frozen=True)
class GroupEstimate:
    """What is known of one group: its documents, score, estimate (None: no interval), and gaps to others."""

    name: str
    n: int
    score: float
    estimate: Estimate | None
    against: Against


@dataclass(frozen=True)
class Moments:
    """Number, mean and sample standard deviation of the scores of one group."""

    name: str
    n: int
    mean: float
    deviation: float


def from_moments(groups: Sequence[Moments], *, binary: bool, least: float, most: float) -> list[GroupEstimate]:
    """Groups of documents that are independent.

    Args:
        binary: every score is 0 or 1; the deviations are not looked at then.
        least, most: what a single score can be.
    """

    def estimate(group: Moments) -> Estimate:
        if binary:
            return Share(round(group.mean * group.n), group.n)
        return Mean(group.mean, group.deviation, group.n, min(least, group.mean), max(most, group.mean))

    known = {group.name: group for group in groups}

    def against(own: Moments, other: str | None) -> Estimate | None:
        rest = _merged([group for group in groups if group is not own]) if other is None else known[other]
        return Difference(estimate(own), estimate(rest)) if rest is not None and rest.n >= FEWEST_JUDGED else None

    return [
        GroupEstimate(group.name, group.n, group.mean, estimate(group), partial(against, group)) for group in groups
    ]


def from_bootstraps(groups: Mapping[str, tuple[int, float, float | None, float | None]]) -> list[GroupEstimate]:
    """Groups whose scores are no means: number, score and its interval by name. The rest has no score."""
    known = {
        name: Told(score, low, high)
        for name, (_, score, low, high) in groups.items()
        if low is not None and high is not None
    }

    def against(own: str, other: str | None) -> Estimate | None:
        return Difference(known[own], known[other]) if other is not None and {own, other} <= known.keys() else None

    return [
        GroupEstimate(name, n, score, known.get(name), partial(against, name))
        for name, (n, score, _, _) in groups.items()
    ]


def from_scores(values: Values, groups: Groups, clusters: Clusters | None = None) -> list[GroupEstimate]:
    """Groups of scores of single documents.

    Args:
        values: shape (n,), aligned with `groups`, finite.
        clusters: which documents belong together, shape (n,).
    """
    members = dict(groups.members())
    if clusters is not None:
        return _of_clusters(values, members, clusters)
    least, most = _bounds(values)
    moments = [Moments(name, len(own), *_mean_and_deviation(values[own])) for name, own in members.items()]
    return from_moments(moments, binary=is_binary(values), least=least, most=most)


def from_pairs(
    first: Values, second: Values, groups: Groups, clusters: Clusters | None = None
) -> list[GroupEstimate]:
    """Gains of a second model over a first on the same documents; the gap of a group to the rest is how much its own
    gap has changed.

    Args:
        first, second: shape (n,), aligned by document, finite.
    """
    members = dict(groups.members())
    delta = second - first
    if clusters is not None:
        return _of_clusters(delta, members, clusters)
    if not (is_binary(first) and is_binary(second)):
        span = float(max(first.max(), second.max()) - min(first.min(), second.min())) if len(first) else 0.0
        moments = [Moments(name, len(own), *_mean_and_deviation(delta[own])) for name, own in members.items()]
        return from_moments(moments, binary=False, least=-span, most=span)

    def estimate(places: Places) -> PairedShares:
        return PairedShares(int((delta[places] > 0).sum()), int((delta[places] < 0).sum()), len(places))

    def against(own: str, other: str | None) -> Estimate | None:
        rest = _others(members, own) if other is None else members[other]
        return Difference(estimate(members[own]), estimate(rest)) if len(rest) >= FEWEST_JUDGED else None

    return [
        GroupEstimate(name, len(own), float(delta[own].mean()), estimate(own), partial(against, name))
        for name, own in members.items()
    ]


def from_two_runs(first: Sequence[GroupEstimate], second: Sequence[GroupEstimate]) -> list[GroupEstimate]:
    """Gains of a second model over a first on different documents, of the groups that both have."""
    known = {group.name: group for group in first}

    def against(own: GroupEstimate, other: str | None) -> Estimate | None:
        before, after = known[own.name].against(other), own.against(other)
        return Difference(after, before) if before is not None and after is not None else None

    return [
        GroupEstimate(
            group.name,
            min(group.n, known[group.name].n),
            group.score - known[group.name].score,
            _difference(group.estimate, known[group.name].estimate),
            partial(against, group),
        )
        for group in second
        if group.name in known
    ]


def _difference(after: Estimate | None, before: Estimate | None) -> Estimate | None:
    return None if after is None or before is None else Difference(after, before)


def _merged(groups: Iterable[Moments]) -> Moments | None:
    """The moments of several groups together (Chan's formulas)."""
    found = [group for group in groups if group.n]
    n = sum(group.n for group in found)
    if not n:
        return None
    mean = sum(group.n * group.mean for group in found) / n
    squares = sum((group.n - 1) * group.deviation**2 + group.n * (group.mean - mean) ** 2 for group in found)
    return Moments("", n, mean, math.sqrt(squares / (n - 1)) if n > 1 else 0.0)


def _mean_and_deviation(values: Values) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 and np.ptp(values) > 0 else 0.0


def _bounds(values: Values) -> tuple[float, float]:
    """What a single score can be: between 0 and 1, or as far beyond as some are."""
    return float(values.min(initial=0.0)), float(values.max(initial=1.0))


def _others(members: Mapping[str, Places], own: str) -> Places:
    found = [places for name, places in members.items() if name != own]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _of_clusters(values: Values, members: Mapping[str, Places], clusters: Clusters) -> list[GroupEstimate]:
    """A cluster may lie in several groups; then their scores hang together, which the error of their gap tells."""
    least, most = _bounds(values)

    def estimate(places: Places) -> Estimate | None:
        own, count = values[places], len(np.unique(clusters[places]))
        if count < 2:
            return None
        if np.ptp(own) == 0:  # all alike: so many clusters may have missed others
            return Mean(float(own[0]), 0.0, count, least, most)
        error = math.sqrt(_squares(_residuals(values, places, clusters), clusters[places]))
        return WithError(float(own.mean()), error, count - 1)

    def against(own: str, other: str | None) -> Estimate | None:
        one, two = members[own], _others(members, own) if other is None else members[other]
        first, second = estimate(one), estimate(two) if len(two) >= FEWEST_JUDGED else None
        if first is None or second is None:
            return None
        if not (isinstance(first, WithError) and isinstance(second, WithError)):
            return Difference(first, second)
        shares = np.concatenate([_residuals(values, one, clusters), -_residuals(values, two, clusters)])
        error = math.sqrt(_squares(shares, clusters[np.concatenate([one, two])]))
        return WithError(first.value - second.value, error, min(first.freedom, second.freedom))

    return [
        GroupEstimate(name, len(own), float(values[own].mean()), estimate(own), partial(against, name))
        for name, own in members.items()
    ]


def _residuals(values: Values, places: Places, clusters: Clusters) -> Values:
    """What each document adds to the error of the mean, corrected for few clusters by G/(G - 1) in squares."""
    own, count = values[places], len(np.unique(clusters[places]))
    return np.asarray((own - own.mean()) / len(own) * math.sqrt(count / (count - 1)))


def _squares(residuals: Values, clusters: Clusters) -> float:
    """Variance from residuals that add up to an estimate's error: those of a cluster are one draw.

    Liang and Zeger (1986), "Longitudinal data analysis using generalized linear models", Biometrika 73.
    """
    _, member = np.unique(clusters, return_inverse=True)
    sums = np.bincount(member, weights=residuals)
    return float(sums @ sums)
