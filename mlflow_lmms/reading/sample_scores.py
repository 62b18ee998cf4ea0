"""The number that a task gave one sample, out of whatever its scoring returned.

Pure. Owns the rules; a number counts only when the mean of such numbers, or a hundred times it, is the task's own
aggregate. Works row by row in constant memory; the functions over whole columns are built on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mlflow_lmms.reading.metric_key import finite_number
from mlflow_lmms.reading.score_sums import ScoreSums

SCORE_FIELDS = ("score", "correct", "is_correct", "accuracy", "acc", "hit", "exact_match", "overall")
PREDICTION_FIELDS = ("pred", "prediction", "parsed_pred", "pred_answer", "predicted_answer", "model_answer")
ANSWER_FIELDS = ("answer", "gt", "ground_truth", "target", "gold", "label", "gt_answer")
_TOLERANCE = 1e-5
_ROUNDED_DIGITS = (5, 6)  # MMMU and its kin round their aggregate to five decimals
_FACTORS = (1.0, 100.0)

Scores = list[float | None]


class Derivation(NamedTuple):
    """A way to read a number out of a sample's value."""

    name: str
    read: Callable[[Any], float | None]

    @property
    def direct(self) -> bool:
        """Whether the value itself is the number."""
        return self.name == "direct"


class ScoreReading(NamedTuple):
    """The outcome for one metric: `derivation` is None for a corpus-level metric.

    `factor` × mean of the scores is the aggregate (1 or 100; None: it is not). Where plain numbers do not reproduce
    the aggregate, `derivation` is None and `sums` still describe the plain numbers.
    """

    derivation: Derivation | None
    factor: float | None
    sums: ScoreSums
    missing: int


def direct_number(value: Any) -> float | None:
    """Return a plain number (NumPy's included) or a truth value as float, anything else as None."""
    return finite_number(value)


def _field_reader(field: str) -> Callable[[Any], float | None]:
    return lambda value: finite_number(value[field]) if isinstance(value, dict) and field in value else None


def _share_of_true(value: Any) -> float | None:
    if isinstance(value, list) and value and all(isinstance(item, bool) for item in value):
        return sum(value) / len(value)
    return None


def _prediction_and_answer(value: Any) -> tuple[Any, Any] | None:
    if not isinstance(value, dict):
        return None
    predictions = [value[field] for field in PREDICTION_FIELDS if field in value]
    answers = [value[field] for field in ANSWER_FIELDS if field in value]
    if len(predictions) != 1 or len(answers) != 1:
        return None
    # lmms-eval 0.7 keeps a list with one entry for each response.
    prediction = predictions[0]
    return prediction[0] if isinstance(prediction, list) and len(prediction) == 1 else prediction, answers[0]


def _equality(value: Any) -> float | None:
    found = _prediction_and_answer(value)
    return None if found is None else float(bool(found[0] == found[1]))


def _holding(value: Any) -> float | None:
    """As MMMU scores: an answer in words or numbers is right when one of the candidates holds it."""
    found = _prediction_and_answer(value)
    if found is None:
        return None
    prediction, answer = found
    answers = answer if isinstance(answer, list) else [answer]
    candidates = prediction if isinstance(prediction, list) else None
    if candidates is None:
        return float(prediction in answers)
    return float(any(_holds(candidate, own) for candidate in candidates for own in answers))


def _holds(candidate: Any, answer: Any) -> bool:
    text = str(answer).strip().lower()
    try:
        return bool(candidate == round(float(text.replace(",", "")), 2))
    except (ValueError, OverflowError):
        words = (f" {text}", f"{text} ") if len(text) == 1 else (text,)
        return isinstance(candidate, str) and any(part in candidate for part in words)


DIRECT = Derivation("direct", finite_number)
_OF_DICTS = (
    *(Derivation(f"field {field}", _field_reader(field)) for field in SCORE_FIELDS),
    Derivation("prediction equals answer", _equality),
    Derivation("prediction holds answer", _holding),
)
_OF_LISTS = (Derivation("share of true", _share_of_true),)
DERIVATIONS = (DIRECT, *_OF_DICTS, *_OF_LISTS)


class SampleScoreReader:
    """Takes a metric's per-sample values one by one and finds which derivation gives the aggregate."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: dict[str, ScoreSums] = {}

    def add(self, value: Any) -> dict[str, float]:
        """Take one sample's value in (None: it has none); return the numbers that it may mean, by derivation."""
        self._rows += 1
        numbers = dict(_numbers(value))
        for name, number in numbers.items():
            self._sums.setdefault(name, ScoreSums()).add(number)
        return numbers

    def reading(self, aggregate: float | None) -> ScoreReading:
        """Say which numbers are the metric's per-sample scores."""
        for derivation in DERIVATIONS:
            sums = self._sums.get(derivation.name)
            factor = factor_of(sums, aggregate) if sums else None
            if sums and factor is not None:
                return ScoreReading(derivation, factor, sums, self._rows - sums.n)
        sums = self._sums.get(DIRECT.name, ScoreSums())
        return ScoreReading(None, None, sums, self._rows - sums.n)


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    if value is None or isinstance(value, str):
        return
    for derivation in _OF_DICTS if isinstance(value, dict) else _OF_LISTS if isinstance(value, list) else (DIRECT,):
        number = derivation.read(value)
        if number is not None:
            yield derivation.name, number


def read_scores(values: Iterable[Any], aggregate: float | None) -> ScoreReading:
    """Find the per-sample scores of a whole column (`values` holds None for samples without this metric)."""
    reader = SampleScoreReader()
    for value in values:
        reader.add(value)
    return reader.reading(aggregate)


def sample_scores(values: Sequence[Any], aggregate: float | None) -> Scores:
    """Return one number per sample, None where there is none (`values` holds None for samples without this metric).

    Plain numbers are returned as they are; whether they reproduce the aggregate is for `read_scores` to say. A number
    derived from a richer value is returned only when it does.
    """
    derivation = read_scores(values, aggregate).derivation or DIRECT
    return [derivation.read(value) for value in values]


def first_number(value: Any) -> float | None:
    """Return the likeliest number of one sample's value, for a score that is only shown while running."""
    return next((number for _, number in _numbers(value)), None)


def mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers that are there."""
    numbers = [score for score in scores if score is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def factor_of(sums: ScoreSums, aggregate: float | None) -> float | None:
    """Return what the scores' mean must be multiplied by to give the aggregate: 1, 100 (a percentage), or None."""
    if sums.n == 0 or aggregate is None:
        return None
    return next((factor for factor in _FACTORS if reproduces(sums.mean * factor, aggregate)), None)


def scale_of(scores: Sequence[float | None], aggregate: float | None) -> float | None:
    """Return the factor for a whole column."""
    return factor_of(ScoreSums.of(scores), aggregate)


def is_binary(scores: Sequence[float | None]) -> bool:
    """Whether every score that is there is 0 or 1."""
    sums = ScoreSums.of(scores)
    return sums.n > 0 and sums.binary


def reproduces(own: float, aggregate: float) -> bool:
    """Whether our number is lmms-eval's, but for rounding."""
    return math.isclose(own, aggregate, rel_tol=_TOLERANCE, abs_tol=1e-12) or any(
        round(own, digits) == aggregate for digits in _ROUNDED_DIGITS
    )
