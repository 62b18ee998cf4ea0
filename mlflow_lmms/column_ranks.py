"""Ranks of one column of a board: by paired tests over the same documents wherever there are some. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.ranks import ranks
from mlflow_lmms.column_tests import PairTests, pair_tests
from mlflow_lmms.score import Score, Vectors

#: Two results are told apart when the test's p-value is below this, after Holm's correction over the column.
ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Rank:
    """A model's place in a column.

    Attributes:
        rank: one more than the models that are proven better; models that cannot be told apart share one.
        last: the worst rank that it may have; all intervals of a column hold together with 95 %.
        paired: whether every test of it was over the same documents; without, intervals that do not meet decide.
        paired_with: how many of the others it was tested against over the same documents.
    """

    rank: int
    last: int
    tied: bool
    paired: bool
    paired_with: int = 0


def column_ranks(scores: Sequence[Score], vectors: Vectors, *, higher_is_better: bool) -> dict[str, Rank]:
    """Ranks by model of results that may be compared with each other."""
    return ranks_from(scores, pair_tests(scores, vectors), higher_is_better=higher_is_better) if scores else {}


def ranks_from(scores: Sequence[Score], tests: PairTests, *, higher_is_better: bool) -> dict[str, Rank]:
    """The ranks that tests of all pairs tell, by model."""
    values = np.array([score.value if higher_is_better else -score.value for score in scores])
    found = ranks(values, tests.p_value, ALPHA)
    first, last, paired = found.first.tolist(), found.last.tolist(), (tests.paired.sum(axis=1) - 1).tolist()
    sharing = Counter(first)
    return {
        score.model: Rank(first[at], last[at], sharing[first[at]] > 1, paired[at] == len(scores) - 1, paired[at])
        for at, score in enumerate(scores)
    }
