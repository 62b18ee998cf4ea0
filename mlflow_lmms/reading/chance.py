"""What guessing gives on questions with options, and what picking the largest or smallest likelihood gives.

Pure. Owns the reading of options and picks, and the exact test against chance.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class ChanceFacts(NamedTuple):
    """Over the documents whose options are known: how many, and the right answers that guessing expects.

    `picks` of them have likelihoods and a known answer; `largest` and `smallest` count where that pick is right.
    """

    n: int = 0
    expected: float = 0.0
    picks: int = 0
    largest: int = 0
    smallest: int = 0


def at_most_by_chance(right: int, n: int, share: float) -> float:
    """Return the probability of at most `right` right answers of `n`, each with probability `share` (exact)."""
    if right >= n or share <= 0.0:
        return 1.0
    if share >= 1.0:
        return 0.0
    log_share, log_other = math.log(share), math.log1p(-share)
    terms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_share + (n - k) * log_other
        for k in range(right + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, terms)))
