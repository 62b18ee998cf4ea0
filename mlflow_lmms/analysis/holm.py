"""Holm's correction of p-values for many tests. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values. Holm (1979), "A simple sequentially rejective multiple test procedure"."""
    # statsmodels' multipletests would do it, but collects all garbage of the process at each call: 0.3 s in a server.
    return [float(p) for p in holm_array(np.asarray(p_values, dtype=np.float64))]


def holm_array(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same of very many p-values."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    return np.minimum(adjusted, 1.0)
