"""Whether a candidate is good enough: no worse than a baseline by more than a margin. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mlflow_lmms.analysis.paired_difference import PairedDifference


class Outcome(StrEnum):
    """What the interval of the difference says; the worst of several is the outcome of all."""

    PASS = "pass"  # noqa: S105 - no password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"

    @property
    def exit_code(self) -> int:
        """For a continuous integration job: 0, 1 (fail) or 2 (more documents are needed)."""
        return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 2}[self]


@dataclass(frozen=True)
class Judgement:
    """One question, its answer, and a sentence that says why."""

    outcome: Outcome
    reason: str


def judge(difference: PairedDifference, margin: float, *, higher_is_better: bool = True) -> Judgement:
    """Judge candidate minus baseline by its interval: the two one-sided tests of non-inferiority in one picture.

    Args:
        margin: the loss that is acceptable, at least 0, in the units of the score.

    Piaggio et al. (2012), "Reporting of noninferiority and equivalence randomized trials", JAMA 308.
    """
    low, high = difference.low, difference.high
    if difference.n == 0:
        low = high = float("nan")
    return judge_gain(low, high, margin) if higher_is_better else judge_gain(-high, -low, margin)


def judge_gain(low: float, high: float, margin: float) -> Judgement:
    """Judge a gain (positive is better) by its interval; NaN where there is none.

    Args:
        margin: the loss that is acceptable, at least 0.
    """
    if margin < 0:
        raise ValueError(f"a margin is at least 0, got {margin}")
    if low != low or high != high:
        return Judgement(Outcome.INCONCLUSIVE, "no documents are shared by candidate and baseline")
    shown = f"the gain lies between {low:+.4g} and {high:+.4g}, the margin is {margin:g}"
    if low > -margin:
        return Judgement(Outcome.PASS, shown)
    if high < -margin:
        return Judgement(Outcome.FAIL, shown)
    return Judgement(Outcome.INCONCLUSIVE, f"{shown}: too few documents to say")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """One outcome of many: fail before inconclusive before pass; nothing asked is inconclusive."""
    found = set(outcomes)
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS):
        if outcome in found:
            return outcome
    return Outcome.INCONCLUSIVE
