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

from mlflow_lmms.analysis.groups import Groups
from mlflow_lmms.analysis.mean_interval import LEVEL
from mlflow_lmms.analysis.non_inferiority import Judgement, Outcome, judge
from mlflow_lmms.analysis.paired_difference import PairedDifference, paired_difference

Values = NDArray[np.float64]

#: Groups of fewer documents are shown but not judged.
FEWEST_JUDGED = 10


@dataclass(frozen=True)
class SliceJudgement:
    """Candidate minus baseline in one group; `judgement` is None where the group has too few documents to be judged."""

    dimension: str
    value: str
    difference: PairedDifference
    judgement: Judgement | None

    @property
    def n(self) -> int:
        """Documents of the group that both have a score of."""
        return self.difference.n


def judge_slices(
    first: Values,
    second: Values,
    dimensions: Mapping[str, Groups],
    margin: float,
    *,
    higher_is_better: bool = True,
    factor: float = 1.0,
    clusters: NDArray[np.int64] | None = None,
    fewest: int = FEWEST_JUDGED,
) -> tuple[SliceJudgement, ...]:
    """Judge every group of every dimension.

    Args:
        first, second: scores of baseline and candidate, shape (n,), aligned by document, finite.
        dimensions: by name, aligned with the scores.
        margin: the loss in a group that is acceptable, in units of `factor` times the scores.
        clusters: which documents belong together, shape (n,).
    """
    raise NotImplementedError
