"""What a judge left of one sample: a verdict, an empty one, or a failure.

Pure. Owns the names and texts by which lmms-eval's tasks tell of their judge. An empty verdict alone is no failure:
many tasks ask the judge only where a rule could not decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from mlflow_lmms.reading.metric_key import finite_number
from mlflow_lmms.reading.sample_scores import SCORE_FIELDS

Verdict = Literal["failed", "blank", "answered"]
FieldKind = Literal["mark", "verdict", "error"]

_JUDGE_WORD = re.compile(r"judge|gpt|llm|(?:^|[^a-z])(?:openai|claude|gemini)", re.IGNORECASE)
_VERDICT_FIELD = re.compile(
    r"judge|gpt|llm|review|verdict|eval(?:uation)?_?(?:answer|result|results|response|text)$", re.IGNORECASE
)
# Beside a verdict: what was judged, by what, and at what cost.
_NOT_A_VERDICT = re.compile(
    r"pred|model|version|prompt|question|token|cost|usage|time|latency|seed|temperature|name|reason|explanation|judged",
    re.IGNORECASE,
)
_MARK_FIELDS = frozenset(("score", "scores", "rating", "ratings"))
_ERROR_FIELD = re.compile(r"(?:^|_)error(?:$|_)|judge_failed", re.IGNORECASE)
_ERROR_TEXT = re.compile(
    r"^\W*(?:(?:api|request|judge|gpt|openai|evaluation)[ _]?)?(?:error|exception|failed)\W*(?:$|[:=(]|code|calling)"
    r"|^\W*(?:traceback|(?:request )?timed? ?out)\b|error code: ?\d{3}|incorrect api key|invalid[_ ]api[_ ]key"
    r"|\b(?:401 unauthorized|403 forbidden|429 too many requests|50\d (?:internal server|bad gateway|server) error)"
    r"|rate limit (?:reached|exceeded)|connection(?: error$| refused)"
    r"|^failed to (?:get a proper review|obtain answer via api)",
    re.IGNORECASE,
)
_OF_A_SERVICE = re.compile(r"api|client|judge|evaluation failed|connection|time[d ]*out|unauthorized", re.IGNORECASE)
_TEXT_READ = 2000


@lru_cache(maxsize=4096)
def is_of_judge(metric: str) -> bool:
    """Whether a metric's name says that a judge gives it."""
    return _JUDGE_WORD.search(metric) is not None


def judge_verdict(values: Mapping[str, Any], *, judged: bool) -> Verdict | None:
    """Tell what a judge left of a sample; None where none is seen.

    `values` are what the task's scoring returned, by metric; `judged`: a judge scores this task.
    """
    found: Verdict | None = None
    for name, value in values.items():
        of_judge = judged or is_of_judge(name)
        own = _in_fields(value, of_judge) if isinstance(value, Mapping) else _in_mark(value) if of_judge else None
        if own == "failed":
            return own
        found = own if found != "answered" and own is not None else found
    return found


def _in_fields(value: Mapping[str, Any], of_judge: bool) -> Verdict | None:
    found: Verdict | None = None
    for field, item in value.items():
        kind = _kind(field) if isinstance(field, str) else None
        own: Verdict | None = None
        if kind == "mark" and of_judge:
            own = _in_mark(item)
        elif kind == "error":
            own = "failed" if _tells_error(field, item, of_judge) else None
        elif kind == "verdict":
            own = _in_verdict(item)
        if own == "failed":
            return own
        found = own if kind == "verdict" and found != "answered" else found
    return None if found == "blank" and _scored_right(value) else found


@lru_cache(maxsize=4096)
def _kind(field: str) -> FieldKind | None:
    if _ERROR_FIELD.search(field):
        return "error"
    if field in _MARK_FIELDS:
        return "mark"
    return "verdict" if _VERDICT_FIELD.search(field) and not _NOT_A_VERDICT.search(field) else None


def _in_mark(item: Any) -> Verdict | None:
    """A mark is a failure when it is -1, not finite, or the text of an error; it speaks of no verdict else."""
    marks = item if isinstance(item, list | tuple) else [item]
    if marks and all(_is_failed_mark(mark) for mark in marks):
        return "failed"
    return "failed" if isinstance(item, str) and _ERROR_TEXT.search(item[:_TEXT_READ]) else None


def _is_failed_mark(mark: Any) -> bool:
    return finite_number(mark) == -1.0 or (isinstance(mark, float) and not math.isfinite(mark))


def _in_verdict(item: Any) -> Verdict:
    if item is None or (isinstance(item, str) and not item.strip()):
        return "blank"
    if isinstance(item, list | tuple) and all(one is None or one == "" for one in item):
        return "blank"
    if isinstance(item, str):
        return "failed" if _ERROR_TEXT.search(item[:_TEXT_READ]) else "answered"
    return "failed" if _is_failed_mark(item) else "answered"


def _tells_error(field: str, item: Any, of_judge: bool) -> bool:
    """Whether an error field tells of the judge, not of the model's answer."""
    if item is True:
        return True
    if not isinstance(item, str) or not item.strip():
        return False
    return is_of_judge(field) or (of_judge and _OF_A_SERVICE.search(item[:_TEXT_READ]) is not None)


def _scored_right(value: Mapping[str, Any]) -> bool:
    numbers = (finite_number(value[field]) for field in (*SCORE_FIELDS, "rating") if field in value)
    return any(number is not None and number > 0 for number in numbers)
