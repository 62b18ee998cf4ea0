"""Holm's correction of p-values for many tests. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values. Holm (1979), "A simple sequentially rejective multiple test procedure"."""
    # statsmodels' multipletests would do it, but collects all garbage of the process at each call: 0.3 s in a server.
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given)
    adjusted = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    return [float(p) for p in np.minimum(adjusted, 1.0)[np.argsort(order)]]
