"""The 95 % interval of a mean, with the standard library alone.

Pure. It serves the score that is shown while a task runs; the record's own statistics are made elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

_Z = NormalDist().inv_cdf(0.975)


def interval(scores: Sequence[float], most: float = 1.0) -> tuple[float, float] | None:
    """Return the interval: Wilson's where every score is 0 or `most`, Student's t else; None below two scores."""
    if scores and set(scores) <= {0.0, most}:
        low, high = wilson(scores.count(most), len(scores))
        return low * most, high * most
    if len(scores) < 2:
        return None
    half = student_t(len(scores) - 1) * stdev(scores) / math.sqrt(len(scores))
    centre = fmean(scores)
    return centre - half, centre + half


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share."""
    share, z2 = successes / trials, _Z * _Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def student_t(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t: exact for 1 and 2 degrees of freedom, else by
    Cornish-Fisher expansion (relative error below 1 % from 3 on)."""
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / math.pow(freedom, power) for power, term in enumerate(terms, start=1))
