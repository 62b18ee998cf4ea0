"""The number that a task gave one sample, out of whatever its scoring returned.

Pure. Owns the rules; it judges a number only by whether the numbers' mean gives the task's own aggregate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

_SCORE_FIELDS = ("score", "correct", "is_correct", "accuracy", "acc", "hit", "exact_match", "overall")
_PREDICTION_FIELDS = ("pred", "prediction", "parsed_pred", "pred_answer", "predicted_answer", "model_answer")
_ANSWER_FIELDS = ("answer", "gt", "ground_truth", "target", "gold", "label", "gt_answer")
_TOLERANCE = 1e-9
_SCALES = (1.0, 100.0)

Scores = list[float | None]


def direct_number(value: Any) -> float | None:
    """Return a plain number (NumPy's included) or a truth value as float, anything else as None."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, bool | int | float):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _field_number(value: Any) -> float | None:
    if not isinstance(value, dict):
        return direct_number(value)
    numbers = (direct_number(value[field]) for field in _SCORE_FIELDS if field in value)
    return next((number for number in numbers if number is not None), None)


def _share_of_true(value: Any) -> float | None:
    if isinstance(value, list) and value and all(isinstance(item, bool) for item in value):
        return sum(value) / len(value)
    return None


def _equality(value: Any) -> float | None:
    if not isinstance(value, dict):
        return None
    predictions = [value[field] for field in _PREDICTION_FIELDS if field in value]
    answers = [value[field] for field in _ANSWER_FIELDS if field in value]
    if len(predictions) != 1 or len(answers) != 1:
        return None
    return float(bool(predictions[0] == answers[0]))


_DERIVATIONS: tuple[Callable[[Any], float | None], ...] = (_field_number, _share_of_true, _equality)


def sample_scores(values: Sequence[Any], aggregate: float | None) -> Scores:
    """Return one number per sample, None where there is none (`values` holds None for samples without this metric).

    Plain numbers are taken as they are. A number derived from a richer value is taken only when the mean of such
    numbers is the aggregate, or a hundredth of it.
    """
    direct = [direct_number(value) for value in values]
    if any(number is not None for number in direct):
        return direct
    for derive in _DERIVATIONS:
        derived = [derive(value) for value in values]
        if scale_of(derived, aggregate) is not None:
            return derived
    return direct


def first_number(value: Any) -> float | None:
    """Return the likeliest number of one sample's value, for a score that is only shown while running."""
    return next((number for derive in _DERIVATIONS if (number := derive(value)) is not None), None)


def mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers that are there."""
    numbers = [score for score in scores if score is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def scale_of(scores: Sequence[float | None], aggregate: float | None) -> float | None:
    """Return what the scores' mean must be multiplied by to give the aggregate: 1, 100 (a percentage), or None."""
    average = mean(scores)
    if average is None or aggregate is None:
        return None
    return next((scale for scale in _SCALES if close(average * scale, aggregate)), None)


def is_binary(scores: Sequence[float | None]) -> bool:
    """Whether every score that is there is 0 or 1."""
    numbers = {score for score in scores if score is not None}
    return bool(numbers) and numbers <= {0.0, 1.0}


def close(one: float, other: float) -> bool:
    """Whether two numbers are equal but for rounding."""
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-12)
