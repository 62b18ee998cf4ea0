"""The Pareto front of score against cost. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pareto_front(scores: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which models no other one beats: none has at least the score at no more cost, and more of the one or less of
    the other.

    Args:
        scores: shape (models,), larger is better; NaN: not on the front.
        costs: shape (models,), smaller is better; NaN: not on the front.
    """
    known = np.isfinite(scores) & np.isfinite(costs)
    front = np.zeros(len(scores), dtype=bool)
    best, cost_of_best = -np.inf, np.nan
    for at in np.lexsort((-scores, costs)):  # the cheapest first, of equally cheap ones the best
        if not known[at]:
            continue
        if scores[at] > best:
            best, cost_of_best = scores[at], costs[at]
        front[at] = scores[at] == best and costs[at] == cost_of_best
    return front
