"""Which of a task's metrics stands for it on a board, and why.

Pure. Owns the rules, in order of precedence; a user's own choice is made elsewhere and wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mlflow_lmms.reading.metric_key import MetricKey as MetricKey

_NOT_A_SCORE = re.compile(
    r"submission|bypass|extracted_answers|exact_matches|generated|cov@|maj@|_by_|judgements", re.IGNORECASE
)
_OVERALL = re.compile(r"(?:^|[^a-z])(?:overall|average|avg|total|all|mean)(?:$|[^a-z])", re.IGNORECASE)
_STANDARD = ("exact_match", "accuracy", "acc", "anls", "f1", "score", "cider", "gpt_eval_score", "wer")
_FILTERS = ("none", "flexible-extract", "custom-extract", "get-answer", "strict-match")
_BY_HAND = {
    "mme": "mme_perception_score",
    "chartqa": "relaxed_overall",
    "ocrbench": "ocrbench_accuracy",
    "hallusion_bench_image": "aAcc",
}


class Primary(NamedTuple):
    """The chosen metric and the rule that chose it."""

    key: MetricKey
    reason: str


def choose_primary(task: str, candidates: Sequence[MetricKey], wanted: str | None = None) -> Primary | None:
    """Choose among metrics that have a number, given in the task's own order.

    `wanted` is the user's own choice, "metric" or "metric:filter"; where there is no such candidate the rules decide.
    """
    if wanted and (asked := find_metric(candidates, wanted)):
        return Primary(asked, "chosen by the user")
    usable = [key for key in candidates if not _NOT_A_SCORE.search(key.metric)]
    names = list(dict.fromkeys(key.metric for key in usable))
    if not names:
        return None
    name, reason = _choose_name(task, names)
    return Primary(_choose_filter([key for key in usable if key.metric == name]), reason)


def find_metric(candidates: Sequence[MetricKey], wanted: str) -> MetricKey | None:
    """Return the candidate that "metric" or "metric:filter" names; a metric's own name may hold a colon."""
    if named := [key for key in candidates if key.metric == wanted]:
        return _choose_filter(named)
    return next((key for key in candidates if f"{key.metric}:{key.filter}" == wanted), None)


def _choose_name(task: str, names: list[str]) -> tuple[str, str]:
    if len(names) == 1:
        return names[0], "the only score"
    if _BY_HAND.get(task) in names:
        return _BY_HAND[task], "known task"
    if overall := [name for name in names if _OVERALL.search(name)]:
        return overall[0], "named as the overall score"
    for standard in _STANDARD:
        for name in names:
            if name.lower() == standard or name.lower().endswith(f"_{standard}"):
                return name, "a standard score"
    if named := [name for name in names if task.lower() in name.lower() or name.lower() in task.lower()]:
        return named[0], "named after the task"
    return names[0], "the first score listed"


def _choose_filter(keys: list[MetricKey]) -> MetricKey:
    return min(keys, key=lambda key: _FILTERS.index(key.filter) if key.filter in _FILTERS else len(_FILTERS))
