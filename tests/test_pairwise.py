"""All pairs at once: against the test of one pair, and where rounding could make up a difference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mlflow_lmms.analysis.paired_difference import paired_difference
from mlflow_lmms.analysis.pairwise import pairwise

RANDOM = np.random.default_rng(1)


def with_gaps(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = scores.copy()
    gaps[1, : scores.shape[1] // 4] = np.nan
    gaps[2, ::3] = np.nan
    return gaps


@pytest.mark.parametrize(
    "scores",
    [
        (RANDOM.random((6, 300)) < np.linspace(0.4, 0.6, 6)[:, np.newaxis]).astype(float),
        RANDOM.random((6, 120)) + np.linspace(0, 0.2, 6)[:, np.newaxis],
        RANDOM.choice([0, 0.5, 1.0], (6, 40)),
        RANDOM.random((6, 900)) + np.linspace(0, 0.05, 6)[:, np.newaxis],
    ],
    ids=["binary", "fractions", "few values", "many documents"],
)
@pytest.mark.parametrize("gaps", [False, True])
def test_every_pair_gets_what_its_own_test_says(scores: NDArray[np.float64], gaps: bool) -> None:
    scores = with_gaps(scores) if gaps else scores
    found = pairwise(scores)
    for one in range(len(scores)):
        for other in range(len(scores)):
            both = np.isfinite(scores[one]) & np.isfinite(scores[other])
            expected = paired_difference(scores[other, both], scores[one, both])
            assert found.shared[one, other] == both.sum()
            assert found.difference[one, other] == pytest.approx(expected.difference, abs=1e-6)
            assert found.p_value[one, other] == pytest.approx(expected.p_value, rel=0.02, abs=2e-3)


def test_models_without_a_common_document_are_not_told_apart() -> None:
    scores = np.array([[1.0, 0, np.nan, np.nan], [np.nan, np.nan, 1, 0]])
    found = pairwise(scores)
    assert found.shared[0, 1] == 0
    assert np.isnan(found.difference[0, 1])
    assert found.p_value[0, 1] == 1


@pytest.mark.parametrize("documents", [30, 5000])
def test_rounding_makes_no_difference_between_equal_models(documents: int) -> None:
    one = RANDOM.random(documents)
    found = pairwise(np.stack([one, one, one + 1e-3]))
    assert found.p_value[0, 1] == 1
    assert found.p_value[0, 2] < 1e-6


def test_equal_models_are_told_apart_no_more_often_than_promised() -> None:
    random = np.random.default_rng(2)
    for make in (lambda: random.random((40, 600)), lambda: (random.random((40, 400)) < 0.7).astype(float)):
        p_values = np.concatenate([pairwise(make()).p_value[np.triu_indices(40, 1)] for _ in range(4)])
        assert (p_values < 0.05).mean() < 0.065
