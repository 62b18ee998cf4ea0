"""The names of metrics in one entry of lmms-eval's (0.3 to 0.7) or lm-evaluation-harness's (0.4) results.

Pure. Owns which entries are metrics and which only accompany one; it judges no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

_STANDARD_ERRORS = ("_stderr_clustered", "_stderr_clt", "_stderr")
# lmms-eval's names of the stability of repeated answers; 0.7.3 writes them for few tasks, so we compute our own.
_STABILITY = ("_expected_accuracy", "_consensus_accuracy", "_internal_variance", "_consistency_rate")
_NOT_METRICS = frozenset(("alias", " ", "samples", "name", "sample_len", "sample_count"))
# Of a comparison with a baseline: multiplied by 100 whatever the metric's scale is.
_PAIRED = "paired_"
_NUMBERS = (bool, int, float)


class MetricKey(NamedTuple):
    """A metric as one filter of the task yields it."""

    metric: str
    filter: str

    @property
    def text(self) -> str:
        """The key as lmms-eval writes it."""
        return f"{self.metric},{self.filter}"


class ReportedMetric(NamedTuple):
    """What lmms-eval says of one metric; `note` says why there is no number."""

    key: MetricKey
    value: float | None
    stderr: float | None
    note: str | None


def reported_metrics(entry: Mapping[str, Any]) -> dict[MetricKey, ReportedMetric]:
    """Read the metrics of one task's entry of `results`, in its order."""
    named = {key: value for name, value in entry.items() if (key := metric_key(name)) is not None}
    found = {}
    for key, value in named.items():
        if not _accompanies(key, named):
            number, note = number_or_note(value)
            stderr = finite_number(named.get(MetricKey(f"{key.metric}_stderr", key.filter)))
            found[key] = ReportedMetric(key, number, stderr, note)
    return found


def metric_key(name: str) -> MetricKey | None:
    """Split an entry's name into metric and filter; None for what is no metric at all."""
    metric, comma, filter_name = name.rpartition(",")
    if not comma or not metric.strip() or name in _NOT_METRICS or metric.startswith(_PAIRED):
        return None
    return MetricKey(metric, filter_name)


def finite_number(value: Any) -> float | None:
    """Return a plain number (NumPy's included) or a truth value as float, anything else as None."""
    if not isinstance(value, _NUMBERS):
        if not hasattr(value, "item") or getattr(value, "ndim", None) != 0:
            return None
        value = value.item()
        if not isinstance(value, _NUMBERS):
            return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number_or_note(value: Any) -> tuple[float | None, str | None]:
    """Return an aggregate as a number, or why it is none."""
    number = finite_number(value)
    return (number, None) if number is not None else (None, _note(value))


def _accompanies(key: MetricKey, named: Mapping[MetricKey, Any]) -> bool:
    """Whether this is the standard error or stability of a metric that is there too."""
    for suffix in _STANDARD_ERRORS + _STABILITY:
        stem = key.metric.removesuffix(suffix)
        if stem != key.metric and MetricKey(stem, key.filter) in named:
            return True
    return False


def _note(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return "text"
    return "not finite"
