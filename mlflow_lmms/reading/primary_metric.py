"""Which of a task's metrics stands for it on a board, and why.

Pure. Owns the rules, in order of precedence, and the table by hand; the user's own choice comes before all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mlflow_lmms.reading.metric_key import MetricKey

# What is for a submission or for another metric, and what only tells how a score came about.
_NOT_A_SCORE = re.compile(
    r"submission|bypass|extracted_answers|exact_matches|generated|cov@|maj@|_by_|judgements"
    r"|format_(?:score|error)|failure[_ ]rate|parse_fail|(?:answered|blocked|cannot_answer)_rate|yes_ratio",
    re.IGNORECASE,
)
_OVERALL = re.compile(r"(?:^|[^a-z])(?:overall|average|avg|total|all|mean)(?:$|[^a-z])", re.IGNORECASE)
_STANDARD = ("exact_match", "accuracy", "acc", "anls", "f1", "score", "cider", "gpt_eval_score", "wer")
_FILTERS = ("none", "flexible-extract", "custom-extract", "get-answer", "strict-match")
# By the start of a task's name: what the benchmark itself reports first, where the rules would take another one.
_BY_HAND = {
    "amber_g": "amber_chair",
    "cgav_counting_clue": "wcs",
    "chartqa": "relaxed_overall",
    "coco_cap_chair": "coco_cap_chair_i",
    "countix": "obo",
    "cuva": "cuva_BLEURT",
    "embspatial": "embspatial_acc",
    "extremewhenbench": "ewb_mIoU",
    "funqa": "funqa_BLEURT",
    "groundingme": "groundingme_ACC@0.5",
    "hallusion_bench": "aAcc",
    "mme": "mme_perception_score",
    "mmmu": "mmmu_acc",
    "mmrefine": "RefScore",
    "mmvp": "mmvp_pair_accuracy",
    "multidocvqa": "anls",
    "multihopspatial": "mcq_acc",
    "o3": "exact_match",
    "ocrbench": "ocrbench_accuracy",
    "odinw13": "odinw13_mAP",
    "ovr_kinetics": "obo",
    "refcoco": "refcoco_ACC@0.5",
    "refcoco+": "refcoco_ACC@0.5",
    "refcocog": "refcoco_ACC@0.5",
    "refcoco_grounding": "refcoco_grounding_ACC@0.5",
    "repcount": "obo",
    "safety_jailbreakbench_benign": "over_refusal_rate",
    "safety_jailbreakbench_harmful": "jailbreak_asr",
    "sparbench": "sparbench_score",
    "tau2_bench": "tau2_success",
    "temporal_grounding_charades": "charades_sta_mIOU",
    "timelens": "timelens_mIOU",
    "vending_bench2": "vending_success",
    "videochatgpt_gen": "gpt_eval_score_correctness",
    "visualwebbench": "rouge_l",
    "vrbench": "vrbench_score",
    "wildvision": "win_rates",
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
    # A task that a group changes is named task@group.
    name, reason = _choose_name(task.partition("@")[0], names)
    keys = [key for key in usable if key.metric == name]
    return Primary(_choose_filter(keys), reason if len(keys) == 1 else f"{reason}; {_filter_reason(keys)}")


def find_metric(candidates: Sequence[MetricKey], wanted: str) -> MetricKey | None:
    """Return the candidate that "metric" or "metric:filter" names; a metric's own name may hold a colon."""
    if named := [key for key in candidates if key.metric == wanted]:
        return _choose_filter(named)
    return next((key for key in candidates if f"{key.metric}:{key.filter}" == wanted), None)


def _choose_name(task: str, names: list[str]) -> tuple[str, str]:
    if len(names) == 1:
        return names[0], "the only score"
    if known := next((metric for metric in _known(task) if metric in names), None):
        return known, "known task"
    if overall := [name for name in names if _OVERALL.search(name)]:
        return overall[0], "named as the overall score"
    for standard in _STANDARD:
        for name in names:
            if name.lower() == standard or name.lower().endswith(f"_{standard}"):
                return name, "a standard score"
    if named := [name for name in names if task.lower() in name.lower() or name.lower() in task.lower()]:
        return named[0], "named after the task"
    return names[0], "the first score listed"


def _known(task: str) -> list[str]:
    """The metrics by hand for a task's name and its beginnings, the longest first."""
    words = task.split("_")
    beginnings = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return [_BY_HAND[beginning] for beginning in beginnings if beginning in _BY_HAND]


def _choose_filter(keys: list[MetricKey]) -> MetricKey:
    return min(keys, key=lambda key: _FILTERS.index(key.filter) if key.filter in _FILTERS else len(_FILTERS))


def _filter_reason(keys: list[MetricKey]) -> str:
    chosen = _choose_filter(keys).filter
    why = "preferred" if chosen in _FILTERS else "the first listed"
    return f"of its {len(keys)} filters {chosen} is {why}"
