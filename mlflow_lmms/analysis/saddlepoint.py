"""Tails of resampling distributions by saddlepoint approximation: the sign-flip test and the bootstrap of a mean.

Both are distributions of sums of independent terms whose cumulants are known exactly, so drawing from them (10,000
draws resolve no p-value below 1e-4, too coarse for Holm over many pairs) is not needed. Relative error of a tail is
of the order 1/n. Lugannani and Rice (1980), "Saddle point approximation for the distribution of the sum of
independent random variables", Advances in Applied Probability 12; sign-flip test: Robinson (1982), "Saddlepoint
approximations for permutation tests and confidence intervals", JRSS B 44; bootstrap: Davison and Hinkley (1988),
"Saddlepoint approximations in resampling methods", Biometrika 75.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Values = NDArray[np.float64]

#: Up to so many differences the test enumerates all signs (2**13 = 8,192 of them).
ENUMERATED = 13
#: Differences are taken to lie on a lattice when they are whole multiples of 1/k of the largest, k up to this.
_FINEST_LATTICE = 1000
_NEAR_MEAN = 1e-4
_NEAR_END = 1 - 1e-9
_NEWTON_STEPS = 60


def sign_flip_p_value(differences: Values) -> float:
    """Two-sided p-value of the sign-flip permutation test that differences are symmetric about 0.

    Args:
        differences: shape (n,), finite.

    All signs are enumerated for up to `ENUMERATED` differences that are not 0; beyond that it is the saddlepoint
    approximation, with a continuity correction where the differences lie on a lattice.
    """
    sizes = np.abs(differences[differences != 0])
    total = abs(float(differences.sum()))
    if len(sizes) == 0:
        return 1.0
    if len(sizes) <= ENUMERATED:
        signs = 1 - 2 * (np.arange(2 ** len(sizes))[:, np.newaxis] >> np.arange(len(sizes)) & 1)
        return float((np.abs(signs @ sizes) >= total * (1 - 1e-9)).mean())
    if total >= float(sizes.sum()) * _NEAR_END:
        return float(2 * 0.5 ** len(sizes))
    # Sums of signed multiples of a step lie two steps apart: half of that distance is the correction.
    return min(1.0, 2.0 * _flip_tail(sizes, max(0.0, total - _lattice_step(sizes))))


def _lattice_step(sizes: Values) -> float:
    """The step of which all sizes are whole multiples, 0.0 where there is none worth a correction."""
    largest = float(sizes.max())
    values = np.unique(sizes) / largest
    for parts in (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 100, _FINEST_LATTICE):
        if np.allclose(values * parts, np.rint(values * parts), rtol=0, atol=1e-6):
            return largest / parts
    return 0.0


def _flip_tail(sizes: Values, total: float) -> float:
    """P(sum of randomly signed sizes ≥ total), for a total of at least 0."""
    largest = float(sizes.max())
    sizes, total = sizes / largest, total / largest
    variance = float(sizes @ sizes)
    if total / variance**0.5 < _NEAR_MEAN:
        return 0.5
    point = _flip_saddlepoint(sizes, total, variance)
    # log cosh without overflow: |x| + log1p(exp(-2|x|)) - log 2
    scaled = point * sizes
    cumulant = float((scaled + np.log1p(np.exp(-2 * scaled)) - np.log(2)).sum())
    curvature = float((sizes * sizes / np.cosh(np.minimum(scaled, 300.0)) ** 2).sum())
    return _lugannani_rice(point, point * total - cumulant, curvature)


def _flip_saddlepoint(sizes: Values, total: float, variance: float) -> float:
    """The t with sum(sizes · tanh(t · sizes)) = total: Newton from below, where the function is concave."""
    point = total / variance
    for _ in range(_NEWTON_STEPS):
        slopes = np.tanh(point * sizes)
        missing = total - float(sizes @ slopes)
        step = missing / float((sizes * sizes) @ (1 - slopes * slopes))
        point += step
        if abs(step) <= 1e-10 * point:
            break
    return point


def _lugannani_rice(point: float, exponent: float, curvature: float) -> float:
    """Upper tail from the saddlepoint, the exponent t·s - K(t) there, and K''(t)."""
    signed_root = float(np.sign(point)) * (2 * max(exponent, 0.0)) ** 0.5
    scaled = point * curvature**0.5
    if abs(signed_root) < _NEAR_MEAN:
        return 0.5
    # Barndorff-Nielsen's form keeps its relative error in far tails, where the sum of two terms cancels.
    return float(special.ndtr(-(signed_root + np.log(scaled / signed_root) / signed_root)))


def bootstrap_mean_interval(values: Values, level: float) -> tuple[float, float]:
    """Percentile interval of the bootstrap distribution of the mean, at `level`.

    Args:
        values: shape (n,), finite, n of at least 2; its values are not all equal.
    """
    n, mean, deviation = len(values), float(values.mean()), float(values.std())
    centred = (values - mean) / deviation
    tail = (1 - level) / 2
    low, high = (_mean_quantile(centred, n, probability) for probability in (tail, 1 - tail))
    return mean + deviation * low, mean + deviation * high


def _mean_quantile(centred: Values, n: int, probability: float) -> float:
    """The quantile of the mean of n draws from the values, which have mean 0 and variance 1."""
    wanted = float(special.ndtri(probability))

    def excess(tilt: float) -> float:
        _, exponent, variance = _tilted(centred, tilt)
        root = math.copysign(math.sqrt(2 * n * max(exponent, 0.0)), tilt)
        return root + math.log(tilt * math.sqrt(n * variance) / root) / root - wanted

    start = wanted / n**0.5
    near, far = 0.3 * start, 2.0 * start
    while excess(far) * np.sign(wanted) < 0:
        far *= 1.5
    tilt = float(optimize.brentq(excess, near, far, xtol=1e-6 * abs(start)))
    return _tilted(centred, tilt)[0]


def _tilted(centred: Values, tilt: float) -> tuple[float, float, float]:
    """Mean, t·m - K(t) and variance of the values under weights proportional to exp(t · value)."""
    shift = float((tilt * centred).max())
    weights = np.exp(tilt * centred - shift)
    total = float(weights.sum())
    mean = float(weights @ centred) / total
    variance = float(weights @ (centred * centred)) / total - mean * mean
    cumulant = shift + float(np.log(total / len(centred)))
    return mean, tilt * mean - cumulant, variance
