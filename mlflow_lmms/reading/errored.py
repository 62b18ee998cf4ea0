"""Samples that tell nothing of the model because something broke, and what a policy makes of them.

Pure. Owns the reasons, the policies and their arithmetic. Both counts, scored and errored, are always kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mlflow_lmms.reading.score_sums import ScoreSums

PolicyName = Literal["as_scored", "drop", "wrong"]
POLICIES: tuple[PolicyName, ...] = ("as_scored", "drop", "wrong")

BLANK_ANSWER = "blank answer"
REQUEST_FAILED = "request failed"
JUDGE_FAILED = "judge failed"
NO_SCORE = "no score"

_NESTING = 8  # lists within lists that a response may be
# What lmms-eval's adapters of remote models answer in place of the model.
_FAILED_REQUESTS = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED]")


@dataclass(frozen=True)
class ErroredPolicy:
    """What to do with errored samples; more than `fail_above` (a share) of them fail the task."""

    policy: PolicyName = "as_scored"
    fail_above: float | None = None


class PolicyOutcome(NamedTuple):
    """A metric after the policy; `failed` says why the task must fail, `note` why the policy changed nothing."""

    value: float | None
    n: int
    failed: str | None = None
    note: str | None = None


def errored_reason(
    responses: Sequence[Any], *, generates: bool, judge_failed: bool = False, scored: bool = True
) -> str | None:
    """Say why a sample is errored; None for a sound one.

    `generates`: the answers are texts, not likelihoods; `judge_failed`: see `judge_verdict`; `scored`: the primary
    metric has a number here.
    """
    if generates and all(is_blank(response) or _is_failed_request(response) for response in responses):
        return REQUEST_FAILED if any(map(_is_failed_request, responses)) else BLANK_ANSWER
    if judge_failed:
        return JUDGE_FAILED
    return None if scored else NO_SCORE


def is_scored(metric: str | None, values: Mapping[str, Any]) -> bool:
    """Whether scoring gave a sample something for the primary metric, or for others if that is about other documents.

    `values` are what it returned, by metric; a value of any kind counts, for corpus-level metrics have no numbers.
    """
    value = values.get(metric) if metric is not None else None
    if value is None:
        return metric is None or any(other is not None for other in values.values())
    return not isinstance(value, float) or math.isfinite(value)


def is_blank(response: Any, depth: int = _NESTING) -> bool:
    """Whether a response holds nothing to read; what is nested too deeply to be a response does."""
    if response is None:
        return True
    if isinstance(response, list | tuple):
        return depth > 0 and all(is_blank(item, depth - 1) for item in response)
    return isinstance(response, str) and not response.strip()


def _is_failed_request(response: Any, depth: int = _NESTING) -> bool:
    if isinstance(response, list | tuple):
        return depth > 0 and bool(response) and all(_is_failed_request(item, depth - 1) for item in response)
    return isinstance(response, str) and response.startswith(_FAILED_REQUESTS)


def apply_policy(
    policy: ErroredPolicy,
    native: float | None,
    factor: float | None,
    sound: ScoreSums,
    errored: ScoreSums,
    errored_rows: int,
    rows: int,
    higher_is_better: bool | None,
) -> PolicyOutcome:
    """Return a metric's value under the policy.

    `sound` and `errored` are the per-sample scores of the two kinds of samples; `errored_rows` counts those without a
    score as well. A corpus-level metric (`factor` None) keeps lmms-eval's number: whoever can call the task's own
    aggregation drops samples before it.
    """
    failed = _too_many(policy, errored_rows, rows)
    scored = sound.n + errored.n
    if policy.policy == "as_scored" or errored_rows == 0:
        return PolicyOutcome(native, scored, failed)
    if factor is None:
        return PolicyOutcome(native, scored, failed, "corpus-level: the policy cannot be applied to its samples")
    if policy.policy == "drop":
        if sound.n == 0:
            return PolicyOutcome(None, 0, failed, "every sample is errored")
        return PolicyOutcome(sound.mean * factor, sound.n, failed)
    if higher_is_better is not True:
        return PolicyOutcome(native, scored, failed, "no score is known to be the worst, where lower is better")
    # Where sound samples lack the metric it is about some documents only, and errored ones may be of the others.
    of_some = sound.n < rows - errored_rows
    counted = sound.n + (errored.n if of_some else errored_rows)
    return PolicyOutcome(sound.total / counted * factor, counted, failed)


def _too_many(policy: ErroredPolicy, errored: int, rows: int) -> str | None:
    if policy.fail_above is None or rows == 0 or errored / rows <= policy.fail_above:
        return None
    return (
        f"{errored} of {rows} samples are errored ({errored / rows:.1%}), more than the {policy.fail_above:.1%} that "
        "this run allows"
    )
