"""Per-sample numbers, accepted only where they reproduce the aggregate, and what is kept of them, row by row."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.reading.sample_scores import (
    SampleScoreReader,
    first_number,
    is_binary,
    mean,
    read_scores,
    sample_scores,
    scale_of,
)
from mlflow_lmms.reading.score_sums import ScoreSums
from mlflow_lmms.reading.stability import stability

_NUMBERS = st.floats(-1000, 1000, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "aggregate", "expected"),
    [
        ([1, 0, True, 0.5, np.float32(0.25), np.int64(1)], None, [1, 0, 1, 0.5, 0.25, 1]),
        ([1.0, None, 0.0], 0.5, [1.0, None, 0.0]),
        ([float("nan"), 1.0], None, [None, 1.0]),
        ([{"score": 1, "id": 3}, {"score": 0, "id": 4}], 0.5, [1, 0]),
        ([{"score": 1}, {"score": 0}], 50.0, [1, 0]),
        ([{"score": 1}, {"score": 0}], 0.7, [None, None]),  # a corpus metric
        ([{"pred": "a", "answer": "a"}, {"pred": "b", "answer": "a"}], 0.5, [1, 0]),
        ([[True, False], [True, True]], 0.75, [0.5, 1]),
        (["text", ""], 0.5, [None, None]),
    ],
)
def test_sample_scores(values: list[Any], aggregate: float | None, expected: list[float | None]) -> None:
    assert sample_scores(values, aggregate) == expected


@pytest.mark.parametrize(
    ("values", "aggregate", "derivation", "factor"),
    [
        ([1.0, 0.0, 1.0], 2 / 3, "direct", 1),
        ([1.0, 0.0, 1.0], 200 / 3, "direct", 100),
        ([1.0, 0.0, 1.0], 0.66667, "direct", 1),  # rounded to five digits
        ([1.0, 0.0, 0.0], 0.33333, "direct", 1),
        ([1.0, 0.0, 1.0], 0.667, None, None),
        ([1.0, 0.0, 1.0], 0.6668, None, None),
        ([100.0, 0.0], 50.0, "direct", 1),
        ([{"overall": 1.0, "task": "sound"}, {"overall": 0.0, "task": "music"}], 50.0, "field overall", 100),
        ([{"score": 3, "correct": True}, {"score": 1, "correct": False}], 0.5, "field correct", 1),
        ([{"score": 1}, {"acc": 0}], 0.5, None, None),  # not one score
        ([{"pred": "A", "answer": "A"}, {"pred": "B", "answer": "A"}], 50.0, "prediction equals answer", 100),
        ([{"pred": "A", "prediction": "B", "answer": "A"}], 1.0, None, None),  # which one is meant?
        (
            [{"parsed_pred": ["A"], "answer": "A"}, {"parsed_pred": ["B"], "answer": "A"}],
            0.5,
            "prediction equals answer",
            1,
        ),
        (
            [
                {"parsed_pred": [["it is mitosis", 3.0]], "answer": "Mitosis"},
                {"parsed_pred": [["so 24", 24.0]], "answer": "24"},
                {"parsed_pred": [["so 240", 240.0]], "answer": "24"},
                {"parsed_pred": ["B"], "answer": ["A", "B"]},
            ],
            0.75,
            "prediction holds answer",
            1,
        ),
        ([[True], [False, False]], 0.5, "share of true", 1),
        ([{"gt": "a b", "hyp": "a c"}], 50.0, None, None),
        ([0.3, 0.3], None, None, None),
        ([], 0.0, None, None),
    ],
)
def test_a_derivation_counts_only_when_it_gives_the_aggregate(
    values: list[Any], aggregate: float | None, derivation: str | None, factor: float | None
) -> None:
    reading = read_scores(values, aggregate)
    assert (reading.derivation and reading.derivation.name) == derivation
    assert reading.factor == factor


def test_a_metric_of_some_rows_only() -> None:
    reading = read_scores([1.0, None, 0.0, None, 1.0], 2 / 3)
    assert (reading.sums.n, reading.missing, reading.factor) == (3, 2, 1)


def test_what_does_not_reproduce_still_tells_its_mean() -> None:
    reading = read_scores([1.0, 0.0], 0.9)
    assert reading.derivation is None
    assert reading.sums.mean == 0.5


_LETTER = st.text(max_size=1)
_VALUES = st.lists(
    st.one_of(
        st.none(),
        st.booleans(),
        _NUMBERS,
        st.text(max_size=3),
        st.lists(st.booleans(), max_size=3),
        st.fixed_dictionaries(
            {},
            optional={
                "score": _NUMBERS,
                "acc": st.booleans(),
                "pred": st.text(max_size=1),
                "answer": st.text(max_size=1),
            },
        ),
    ),
    max_size=30,
)


@given(_VALUES, st.sampled_from([None, 1.0, 100.0]), st.booleans())
def test_row_by_row_is_what_the_whole_column_is(values: list[Any], factor: float | None, derived: bool) -> None:
    scores = [first_number(value) for value in values] if derived else sample_scores(values, None)
    average = mean(scores)
    aggregate = None if factor is None or average is None else average * factor
    reader = SampleScoreReader()
    for value in values:
        reader.add(value)
    streamed = reader.reading(aggregate)
    whole = sample_scores(values, aggregate)
    assert streamed == read_scores(values, aggregate)
    numbers = [score for score in whole if score is not None]
    assert streamed.sums.n == len(numbers)
    assert streamed.missing == len(values) - len(numbers)
    if streamed.factor is not None and aggregate is not None:
        assert fmean(numbers) * streamed.factor == pytest.approx(aggregate, rel=2e-5, abs=5.1e-6)


@given(st.lists(_NUMBERS, min_size=2, max_size=100), st.integers(0, 100))
def test_sums_are_those_of_the_standard_library(scores: list[float], cut: int) -> None:
    sums = ScoreSums.of(scores)
    assert sums.mean == pytest.approx(fmean(scores), abs=1e-9)
    assert sums.sd == pytest.approx(stdev(scores), abs=1e-6)
    assert (sums.least, sums.most) == (min(scores), max(scores))
    assert sums.total == pytest.approx(math.fsum(scores), abs=1e-6)
    joined = ScoreSums.of(scores[:cut]).merged(ScoreSums.of(scores[cut:]))
    assert joined.n == sums.n
    assert joined.mean == pytest.approx(sums.mean, abs=1e-9)
    assert joined.sd == pytest.approx(sums.sd, abs=1e-6)
    assert (joined.binary, joined.hundreds, joined.all_zero) == (sums.binary, sums.hundreds, sums.all_zero)


def test_scale_and_binary() -> None:
    assert scale_of([1, 0, None, 1], 2 / 3) == 1
    assert scale_of([1, 0, None, 1], 200 / 3) == 100
    assert scale_of([1, 0], 0.51) is None
    assert scale_of([], 0.5) is None
    assert is_binary([0.0, 1.0, None])
    assert not is_binary([0.0, 0.5])
    assert not is_binary([None])


def _by_formula(scores: list[list[float]]) -> list[float]:
    """EA, CA, IV and CR written as they are defined."""
    return [
        fmean(fmean(own) for own in scores),
        fmean(float(sum(own) > len(own) / 2) for own in scores),
        fmean(stdev(own) ** 2 for own in scores),
        fmean(float(len(set(own)) == 1) for own in scores),
    ]


def test_stability_by_hand() -> None:
    found = stability([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert found is not None
    assert found.k == 3
    assert list(found[1:5]) == pytest.approx([6 / 12, 2 / 4, (1 / 3 + 0 + 1 / 3 + 0) / 4, 2 / 4])
    assert found.note is None


def test_stability_that_is_undefined_says_so() -> None:
    assert stability([]) is None
    assert stability([[1.0], [0.0]]) is None
    graded = stability([[0.5, 0.5], [0.2, 0.4]])
    assert graded is not None
    assert graded.CA is None
    assert "not only 0 and 1" in (graded.note or "")
    uneven = stability([[1, 0, 1], [1, None, 1], [1]])
    assert uneven is not None
    assert list(uneven[1:3]) == pytest.approx([4 / 5, 1])
    assert "between 2 and 3" in (uneven.note or "")


@given(st.integers(2, 5).flatmap(lambda k: st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=k, max_size=k))))
def test_stability_is_what_its_formulas_say(scores: list[list[float]]) -> None:
    found = stability(scores)
    if found is None:
        assert not scores
    else:
        assert list(found[1:5]) == pytest.approx(_by_formula(scores), abs=1e-12)
