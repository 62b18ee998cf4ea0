"""What a metric's best number is, and whether a larger number is better; both with the reason, and never guessed.

Pure. Owns the tables and the order of the rules. A scale is never told from one value alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mlflow_lmms.reading.score_sums import ScoreSums

_WORD = r"(?:^|[^a-z0-9])(?:{})(?:$|[^a-z0-9])"
_ERROR_RATE = re.compile(_WORD.format("wer|cer|mer|ter"), re.IGNORECASE)
_LOWER_IS_BETTER = re.compile(
    _WORD.format("wer|cer|mer|mae|mse|rmse|loss|perplexity|ppl|error|errors|error_rate|failure|hallucination_rate"),
    re.IGNORECASE,
)
_HIGHER_IS_BETTER = re.compile(
    _WORD.format("acc|accuracy|exact_match|em|anls|f1|precision|recall|bleu|rouge|cider|meteor|iou|score|win_rate"),
    re.IGNORECASE,
)
_NEITHER = re.compile(r"yes[_ -]?(?:ratio|rate|prop|percent)|(?:response|output|answer)[_ -]?length", re.IGNORECASE)
# lmms-eval's own metrics of these names are shares, where the task uses its built-in mean over samples.
_BUILT_IN_SHARES = frozenset(("acc", "acc_norm", "acc_mutual_info", "exact_match"))
_BUILT_IN_MEANS = frozenset(("mean", "acc_all"))
_KNOWN = {
    "mme_perception_score": 2000.0,
    "mme_cognition_score": 800.0,
    "mme_cognition_score_no_judge": 800.0,
}


class MetricScale(NamedTuple):
    """The upper end: 1 for a fraction, 100 for a percentage, another known bound, None where it is unknown."""

    high: float | None
    reason: str


def metric_scale(
    task: str,
    metric: str,
    value: float | None,
    factor: float | None,
    times_100: bool | None,
    *,
    sums: ScoreSums | None = None,
    aggregation: str | None = None,
) -> MetricScale:
    """Tell a metric's scale.

    `factor` × mean of `sums` is the value (None: it is not); `times_100` is what the catalogue reads in the
    aggregation's source; `aggregation` is its name where it is one of lmms-eval's own.
    """
    if metric in _KNOWN:
        return MetricScale(_KNOWN[metric], f"known of {metric}")
    if _ERROR_RATE.search(metric) and not (factor == 1.0 and _within_unit(sums)):
        return MetricScale(100.0, "an error rate in percent, which may pass 100")
    if value is None:
        return MetricScale(None, "there is no value")
    if times_100:
        return MetricScale(100.0, "the task's code multiplies by 100")
    if found := _from_samples(factor, sums):
        return found
    share = metric in _BUILT_IN_SHARES and aggregation in _BUILT_IN_MEANS and 0.0 <= value <= 1.0
    if share:
        return MetricScale(1.0, f"lmms-eval's own {metric}, averaged")
    return MetricScale(None, _why_unknown(factor, sums))


def _from_samples(factor: float | None, sums: ScoreSums | None) -> MetricScale | None:
    if factor is None or sums is None or sums.n == 0 or sums.all_zero:
        return None
    unit = _within_unit(sums)
    if factor == 100.0:
        return MetricScale(100.0, "100 × the mean of the samples' scores") if unit else None
    if unit:
        return MetricScale(1.0, "the mean of the samples' scores, which lie between 0 and 1")
    if sums.hundreds:
        return MetricScale(100.0, "the mean of the samples' scores, which are 0 or 100")
    return None


def _within_unit(sums: ScoreSums | None) -> bool:
    return sums is not None and sums.n > 0 and not sums.all_zero and sums.least >= 0.0 and sums.most <= 1.0


def _why_unknown(factor: float | None, sums: ScoreSums | None) -> str:
    if sums is None or sums.n == 0:
        return "unknown: there are no per-sample scores to tell it from"
    if sums.all_zero:
        return "unknown: every score is 0, which fits every scale"
    if factor is None:
        return "unknown: the value does not follow from the samples' scores"
    return f"unknown: the samples' scores range from {sums.least:g} to {sums.most:g}"


def direction(metric: str, declared: bool | None) -> tuple[bool | None, str]:
    """Return whether a larger number is better (None: neither, or unknown), and why."""
    if _NEITHER.search(metric):
        return None, f"{metric} is better neither high nor low"
    if _ERROR_RATE.search(metric) and declared is True:
        return False, "an error rate, although the task says that higher is better"
    if declared is not None:
        return declared, "the task says so"
    if _LOWER_IS_BETTER.search(metric):
        return False, "by its name; the task does not say"
    if _HIGHER_IS_BETTER.search(metric):
        return True, "by its name; the task does not say"
    return None, "the task does not say"
