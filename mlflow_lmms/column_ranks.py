"""Ranks of one column of a board: by paired tests over the same documents wherever there are some. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.paired_difference import paired_difference
from mlflow_lmms.analysis.pairwise import pairwise
from mlflow_lmms.analysis.ranks import ranks
from mlflow_lmms.score import Score, Vectors
from mlflow_lmms.score_vectors import ScoreVector, align, shared_clusters

#: Two results are told apart when the test's p-value is below this, after Holm's correction over the column.
ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Rank:
    """A model's place in a column.

    Attributes:
        rank: one more than the models that are proven better; models that cannot be told apart share one.
        last: the worst rank that it may have; all intervals of a column hold together with 95 %.
        paired: whether every test of it was over the same documents; without, intervals that do not meet decide.
    """

    rank: int
    last: int
    tied: bool
    paired: bool


def column_ranks(scores: Sequence[Score], vectors: Vectors, *, higher_is_better: bool) -> dict[str, Rank]:
    """Ranks by model of results that may be compared with each other."""
    if not scores:
        return {}
    known = [vectors(score) for score in scores]
    p_value, paired = _tests(scores, known)
    values = np.array([score.value if higher_is_better else -score.value for score in scores])
    found = ranks(values, p_value, ALPHA)
    shown = found.first.tolist()
    return {
        score.model: Rank(
            shown[at], int(found.last[at]), tied=shown.count(shown[at]) > 1, paired=bool(paired[at].all())
        )
        for at, score in enumerate(scores)
    }


def _tests(
    scores: Sequence[Score], known: Sequence[ScoreVector | None]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """p-values of all pairs, and which of them come from a paired test; both symmetric."""
    p_value, paired = np.ones((len(scores), len(scores))), np.eye(len(scores), dtype=bool)
    aligned: dict[tuple[str, int], list[int]] = defaultdict(list)
    for at, vector in enumerate(known):
        if vector is not None and vector.dataset is not None:
            aligned[vector.dataset, len(vector.values)].append(at)
    for members in aligned.values():
        places = np.ix_(members, members)
        vectors = [vector for at in members if (vector := known[at]) is not None]
        clusters = next((vector.clusters for vector in vectors if vector.clusters is not None), None)
        tests = pairwise(np.stack([vector.values for vector in vectors]), clusters)
        p_value[places], paired[places] = tests.p_value, tests.shared > 0
    for one, other in combinations(range(len(scores)), 2):
        if not paired[one, other]:
            p, same = _test(scores[one], scores[other], known[one], known[other])
            p_value[one, other] = p_value[other, one] = p
            paired[one, other] = paired[other, one] = same
    return p_value, paired


def _test(first: Score, second: Score, one: ScoreVector | None, two: ScoreVector | None) -> tuple[float, bool]:
    if one is not None and two is not None:
        at_one, at_two = aligned = align(one, two)
        found = paired_difference(one.values[at_one], two.values[at_two], shared_clusters(one, two, aligned))
        if found.n:
            return found.p_value, True
    return (0.0 if _apart(first, second) else 1.0), False


def _apart(first: Score, second: Score) -> bool:
    """Without samples: whether the intervals do not meet, which is less than a test; without these, the values."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return first.value != second.value
    return first.low > second.high or second.low > first.high
