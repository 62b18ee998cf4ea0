"""Rank intervals hold for all models at once, ties share a rank, and a missing score is never the worst one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from mlflow_lmms.analysis.pairwise import pairwise
from mlflow_lmms.analysis.ranks import ranks, shares_beaten, win_rate_interval, win_rates

NAN = float("nan")


def test_models_far_apart_have_one_rank_each_and_equal_ones_all() -> None:
    values = np.array([0.2, 0.9, 0.5])
    apart = ranks(values, np.full((3, 3), 1e-9))
    assert list(apart.first) == list(apart.last) == [3, 1, 2]
    together = ranks(values, np.ones((3, 3)))
    assert (set(together.first), set(together.last)) == ({1}, {3})


def test_a_middle_model_may_tie_with_both_ends_that_differ() -> None:
    p_value = np.ones((3, 3))
    p_value[0, 2] = p_value[2, 0] = 1e-6
    found = ranks(np.array([0.9, 0.7, 0.5]), p_value)
    assert list(found.first) == [1, 1, 2]
    assert list(found.last) == [2, 3, 3]


def test_a_single_model_is_first() -> None:
    found = ranks(np.array([0.3]), np.ones((1, 1)))
    assert (found.first[0], found.last[0]) == (1, 1)


def test_the_true_ranks_lie_in_all_intervals_at_once() -> None:
    """Six models, two of them truly equal: simultaneous coverage of at least 95 %."""
    random = np.random.default_rng(3)
    truth = np.array([0.50, 0.55, 0.55, 0.60, 0.70, 0.75])
    best = np.array([1 + (truth > value).sum() for value in truth])
    worst = np.array([(truth >= value).sum() for value in truth])
    held = told = 0
    for _ in range(300):
        scores = (random.random((6, 400)) < truth[:, np.newaxis]).astype(float)
        found = ranks(scores.mean(axis=1), pairwise(scores).p_value)
        held += bool(((found.first <= worst) & (found.last >= best)).all())
        told += found.first[5] == 1 and found.last[5] <= 2
    assert held >= 0.95 * 300
    assert told >= 0.5 * 300


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, NAN]), max_size=10))
def test_shares_are_those_counted_one_by_one(group: list[float]) -> None:
    found = shares_beaten(np.array(group, dtype=float))
    present = [rank for rank in group if rank == rank]
    for position, rank in enumerate(group):
        others = [other for at, other in enumerate(group) if at != position and other == other]
        if rank != rank or len(present) < 2:
            assert np.isnan(found[position])
        else:
            won = sum(1.0 if other > rank else 0.5 if other == rank else 0.0 for other in others)
            assert found[position] == pytest.approx(won / len(others))


def test_a_missing_benchmark_is_left_out_of_the_mean() -> None:
    assert win_rates(np.array([[1.0, NAN], [0.0, 1.0]])) == pytest.approx([1.0, 0.5])
    assert np.isnan(win_rates(np.array([[NAN, NAN]]))[0])


def test_a_win_rate_has_an_interval_over_benchmarks() -> None:
    assert win_rate_interval(np.array([0.5])) is None
    found = win_rate_interval(np.array([0.2, 0.4, 0.9]))
    assert found is not None
    # t quantile 4.3027 with two degrees of freedom, deviation 0.36056, cut at 0 and 1.
    assert (found.low, found.high) == pytest.approx((0.0, 1.0), abs=1e-9)
    narrow = win_rate_interval(np.array([0.5, 0.6, 0.55, 0.58]))
    assert narrow is not None
    assert (narrow.low, narrow.high) == pytest.approx(DescrStatsW([0.5, 0.6, 0.55, 0.58]).tconfint_mean())
