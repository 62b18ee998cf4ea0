"""All pairs of models on one benchmark at once: differences and p-values by matrix products. Pure.

The same tests as `paired_difference` makes for one pair: exact McNemar for right-or-wrong scores, sign flips for
others, by the normal limit where there are so many documents that it is as good.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mlflow_lmms.analysis.mean_interval import is_binary
from mlflow_lmms.analysis.saddlepoint import sign_flip_p_value

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: From so many documents on the normal limit of the sign-flip distribution is taken: its error is of the order 1/n.
_NORMAL_FROM = 500
#: A variance below this share of its terms is what rounding left of none.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Pairwise:
    """Every model against every other; matrices of shape (models, models).

    `difference[i, j]` is the mean of i minus that of j over the documents that both have (NaN without any), and
    `p_value[i, j]` its two-sided p-value (1 without any); `shared[i, j]` counts these documents.
    """

    difference: Matrix
    p_value: Matrix
    shared: NDArray[np.int64]


def pairwise(scores: Matrix, clusters: NDArray[np.int64] | None = None) -> Pairwise:
    """Compare all pairs.

    Args:
        scores: shape (models, documents), NaN where a model has no score of a document.
        clusters: shape (documents,), which documents belong together; each cluster then counts as one draw.
    """
    present = np.isfinite(scores)
    complete = bool(present.all())
    values = scores if complete else np.where(present, scores, 0.0)
    shared, sums = _over_shared(values, present, complete)
    with np.errstate(invalid="ignore"):
        difference = np.where(shared > 0, (sums - sums.T) / shared, np.nan)
    if clusters is not None:
        return Pairwise(difference, _clustered(values, present, clusters), shared)
    if is_binary(values):
        wins = np.rint(sums - _products(values, values))
        return Pairwise(difference, _mcnemar(wins, wins.T), shared)
    return Pairwise(difference, _sign_flips(values, present, sums, shared), shared)


def _clustered(values: Matrix, present: Mask, clusters: NDArray[np.int64]) -> Matrix:
    """Sign flips of whole clusters: of their sums, which are one matrix where no score is missing."""
    _, member = np.unique(clusters, return_inverse=True)
    if present.all():
        return pairwise(np.stack([np.bincount(member, weights=row) for row in values])).p_value
    p_value = np.ones((len(values), len(values)))
    for one, other in combinations(range(len(values)), 2):
        both = present[one] & present[other]
        sums = np.bincount(member[both], weights=values[one, both] - values[other, both]).astype(np.float64)
        p_value[one, other] = p_value[other, one] = sign_flip_p_value(sums)
    return p_value


def _over_shared(values: Matrix, present: Mask, complete: bool) -> tuple[NDArray[np.int64], Matrix]:
    """How many documents each pair shares, and the sum of the first one's scores over them."""
    models, documents = values.shape
    if complete:
        sums = np.broadcast_to(values.sum(axis=1)[:, np.newaxis], (models, models))
        return np.full((models, models), documents, dtype=np.int64), sums
    there = present.astype(np.float64)
    return np.rint(_products(there, there)).astype(np.int64), _products(values, there)


def _products(left: Matrix, right: Matrix) -> Matrix:
    """left · rightᵀ; zeros and ones in single precision, exact up to 2**24 documents and twice as fast."""
    if left.shape[1] < 2**24 and is_binary(left) and is_binary(right):
        return np.asarray(left.astype(np.float32) @ right.astype(np.float32).T, dtype=np.float64)
    return np.asarray(left @ right.T)


def _mcnemar(wins: Matrix, losses: Matrix) -> Matrix:
    """Two-sided exact binomial test of each pair of counts."""
    differing = wins + losses
    with np.errstate(invalid="ignore"):
        tail = special.bdtr(np.minimum(wins, losses), differing.astype(np.int64), 0.5)
    return np.where(differing > 0, np.minimum(1.0, 2 * tail), 1.0)


def _sign_flips(values: Matrix, present: Mask, sums: Matrix, shared: NDArray[np.int64]) -> Matrix:
    _, squares = _over_shared(values * values, present, bool(present.all()))
    total = np.abs(sums - sums.T)
    terms = squares + squares.T
    variance = terms - 2 * _products(values, values)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = np.where(variance > _ROUNDING * terms, 2 * special.ndtr(-total / np.sqrt(variance)), 1.0)
    for one, other in zip(*np.nonzero(np.triu((shared > 0) & (shared < _NORMAL_FROM), 1)), strict=True):
        both = present[one] & present[other]
        p_value[one, other] = p_value[other, one] = sign_flip_p_value(values[one, both] - values[other, both])
    np.fill_diagonal(p_value, 1.0)
    return np.asarray(p_value)
