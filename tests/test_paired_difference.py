"""Intervals and tests against scipy, statsmodels, published examples, and what they promise in simulations."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from mlflow_lmms.analysis.holm import holm
from mlflow_lmms.analysis.mean_interval import is_binary, mean_interval
from mlflow_lmms.analysis.paired_difference import mcnemar, paired_difference, score_interval
from mlflow_lmms.analysis.saddlepoint import bootstrap_mean_interval, sign_flip_p_value

Values = NDArray[np.float64]

#: Extra sleep in hours under two drugs: Student (1908), "The probable error of a mean", Biometrika 6.
SLEEP = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SLEEP_OTHER = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
#: Darwin's maize, differences in eighths of an inch: Fisher (1935), "The design of experiments", section 21.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=float)


def ones(count: int, of: int) -> Values:
    return np.array([1.0] * count + [0.0] * (of - count))


def interval(values: Values) -> tuple[float, float]:
    found = mean_interval(values)
    assert found is not None
    return found.low, found.high


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(count: int, of: int, low: float, high: float) -> None:
    """Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert interval(ones(count, of)) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 60), st.integers(2, 60))
def test_wilson_agrees_with_scipy(count: int, of: int) -> None:
    count = min(count, of)
    expected = stats.binomtest(count, of).proportion_ci(method="wilson")
    assert interval(ones(count, of)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_students_interval_is_that_of_his_own_example() -> None:
    assert interval(SLEEP_OTHER - SLEEP) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda values: not set(values) <= {0.0, 1.0}))
def test_students_interval_agrees_with_statsmodels(values: list[float]) -> None:
    array = np.array(values)
    assert interval(array) == pytest.approx(DescrStatsW(array).tconfint_mean(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("values", [[], [0.5], [1.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert mean_interval(np.array(values)) is None


@pytest.mark.parametrize(
    ("values", "binary"), [([0, 1, 1], True), ([1, 1], True), ([0, 0.5], False), ([0, 2], False), ([-0.0, 1], True)]
)
def test_scores_of_nought_and_one_are_told_from_others(values: list[float], binary: bool) -> None:
    assert is_binary(np.array(values, dtype=float)) == binary


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_wilson_covers_the_truth_as_often_as_it_says(rate: float) -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        low, high = interval((random.random(80) < rate).astype(float))
        covered += low <= rate <= high
    assert 0.92 <= covered / 1000 <= 0.985


def test_students_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    drawn = random.normal(3, 2, (1000, 25))
    covered = sum(low <= 3 <= high for low, high in map(interval, drawn))
    assert 0.93 <= covered / 1000 <= 0.97


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_agrees_with_statsmodels(wins: int, losses: int) -> None:
    expected = statsmodels_mcnemar([[5, wins], [losses, 5]], exact=True).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, expected), abs=1e-9)
    assert mcnemar(wins, losses) == mcnemar(losses, wins)


def binary_pair(wins: int, losses: int, both: int, neither: int) -> tuple[Values, Values]:
    first = np.array([0.0] * wins + [1.0] * losses + [1.0] * both + [0.0] * neither)
    second = np.array([1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * neither)
    return first, second


def test_two_models_with_scores_of_nought_and_one_are_compared_by_mcnemar() -> None:
    found = paired_difference(*binary_pair(wins=10, losses=2, both=50, neither=38))
    assert (found.wins, found.losses, found.n, found.method) == (10, 2, 100, "exact McNemar")
    assert found.difference == pytest.approx(0.08)
    assert found.p_value == pytest.approx(2 * sum(stats.binom.pmf(k, 12, 0.5) for k in range(3)))
    assert found.low < 0.08 < found.high


def test_the_score_interval_is_the_published_one() -> None:
    """Fagerland, Lydersen and Laake (2014), "Recommended tests … for paired binomial proportions", Stat. Med. 33."""
    assert score_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 200))
def test_the_bounds_of_the_score_interval_solve_its_equation_without_iteration(
    wins: int, losses: int, agreeing: int
) -> None:
    """The quartic of Yang, Sun and Hardin (2013), "A non-iterative implementation of Tango's score confidence …"."""
    n, gap, z2 = wins + losses + agreeing, wins - losses, stats.norm.ppf(0.975) ** 2
    ratio = n / z2
    quartic = [
        n**2 * (ratio + 1) ** 2,
        -n * gap * (ratio + 1) * (4 * ratio + 1),
        2 * n * gap**2 * (3 * ratio + 2) / z2 - n**2 * ((wins + losses) / z2 + 1),
        n * gap * (2 * (wins + losses) / z2 + 1) - gap**3 * (4 * ratio + 1) / z2,
        gap**2 * (gap**2 / z2 - (wins + losses)) / z2,
    ]
    low, high = score_interval(wins, losses, n)
    assert low <= gap / n <= high
    assert score_interval(losses, wins, n) == pytest.approx((-high, -low), abs=1e-9)
    for bound in (low, high):
        terms = [coefficient * bound ** (4 - power) for power, coefficient in enumerate(quartic)]
        assert sum(terms) == pytest.approx(0, abs=1e-6 * max(map(abs, terms)) + 1e-9)


@pytest.mark.parametrize(("win", "loss", "n"), [(0.02, 0.02, 20), (0.1, 0.05, 10), (0.01, 0.0, 100), (0.2, 0.2, 50)])
def test_the_score_interval_keeps_its_coverage_where_few_documents_differ(win: float, loss: float, n: int) -> None:
    counts = np.random.default_rng(11).multinomial(n, [win, loss, 1 - win - loss], size=400)
    bounds = [score_interval(int(wins), int(losses), n) for wins, losses, _ in counts]
    assert sum(low <= win - loss <= high for low, high in bounds) >= 0.93 * 400


def test_sign_flips_of_many_documents_have_the_p_value_of_many_draws() -> None:
    random = np.random.default_rng(12)
    for delta in (
        random.exponential(1, 40) - 0.8,
        random.choice([-1, -0.5, 0, 0.5, 1], 60, p=[0.1, 0.15, 0.4, 0.15, 0.2]),
        random.standard_t(3, 300) + 0.1,
        np.where(random.random(80) < 0.5, 0.0, random.random(80)) - 0.2,
    ):
        sums = random.choice([-1.0, 1.0], (40_000, len(delta))) @ delta
        expected = (np.abs(sums) >= abs(delta.sum()) - 1e-9).mean()
        assert sign_flip_p_value(delta) == pytest.approx(expected, abs=0.01)


def test_far_tails_of_the_sign_flips_are_those_of_the_exact_count() -> None:
    """Equal sizes: the sum is that of a binomial count, whose tail is known to 1e-40."""
    for n, wins in ((40, 38), (200, 160), (1000, 700), (20, 20)):
        delta = np.array([0.5] * wins + [-0.5] * (n - wins))
        expected = 2 * stats.binom.sf(wins - 1, n, 0.5)
        assert 0.95 * expected <= sign_flip_p_value(delta) <= 1.5 * expected


@pytest.mark.parametrize("n", [60, 400])
def test_the_bootstrap_without_draws_is_the_bootstrap(n: int) -> None:
    random = np.random.default_rng(13)
    for values in (random.exponential(1, n), random.choice([-1, 0, 0.5], n), random.standard_t(3, n)):
        means = random.choice(values, (20_000, n)).mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        width = high - low
        assert bootstrap_mean_interval(values, 0.95) == pytest.approx((low, high), abs=0.06 * width)


@pytest.mark.parametrize("n", [4, 8, 15, 30, 49])
def test_the_interval_of_few_fractions_covers_the_truth(n: int) -> None:
    random = np.random.default_rng(14)
    found = [paired_difference(np.zeros(n), random.exponential(1, n) - 0.9) for _ in range(600)]
    assert sum(item.low <= 0.1 <= item.high for item in found) >= (0.87 if n < 15 else 0.90) * 600


def test_clusters_count_as_one_draw_each() -> None:
    random = np.random.default_rng(15)
    called = blind = covered = 0
    for _ in range(300):
        clusters = np.repeat(np.arange(30), 8)
        shift = np.repeat(random.normal(0, 0.5, 30), 8)
        delta = shift + random.normal(0, 0.2, 240)
        found = paired_difference(np.zeros(240), delta, clusters)
        called += found.p_value < 0.05
        covered += found.low <= 0 <= found.high
        blind += paired_difference(np.zeros(240), delta).p_value < 0.05
    assert called <= 0.09 * 300
    assert covered >= 0.91 * 300
    assert blind > 0.3 * 300  # what not knowing of clusters costs


def test_sign_flips_reproduce_fishers_count_of_darwins_maize() -> None:
    found = paired_difference(np.zeros(15), MAIZE)
    assert found.method == "sign-flip permutation"
    assert found.p_value == pytest.approx(1726 / 32768, abs=0.007)


def test_sign_flips_are_exact_for_few_documents() -> None:
    found = paired_difference(SLEEP, SLEEP_OTHER)
    expected = stats.permutation_test((SLEEP_OTHER - SLEEP,), np.mean, permutation_type="samples", n_resamples=2**10)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.wins, found.losses) == (9, 0)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_random_sign_flips_agree_with_scipy(shift: float) -> None:
    random = np.random.default_rng(3)
    delta = random.normal(shift, 1, 60)
    expected = stats.permutation_test(
        (delta,), np.mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=random
    ).pvalue
    assert paired_difference(np.zeros(60), delta).p_value == pytest.approx(expected, abs=0.02)


def test_the_interval_of_a_difference_is_near_students_for_many_documents() -> None:
    random = np.random.default_rng(4)
    first = random.random(2000)
    second = np.clip(first + random.normal(0.05, 0.3, 2000), 0, 1)
    found = paired_difference(first, second)
    assert (found.low, found.high) == pytest.approx(interval(second - first), abs=0.002)
    few_values = paired_difference(np.round(first, 1), np.round(second, 1))
    assert (few_values.low, few_values.high) == pytest.approx(
        interval(np.round(second, 1) - np.round(first, 1)), abs=0.002
    )


@pytest.mark.parametrize("make", ["binary", "fractions"])
def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says(make: str) -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        skill = random.random(150)
        if make == "binary":
            first, second = (random.random((2, 150)) < np.stack([skill, np.minimum(1, skill + 0.1)])).astype(float)
            truth = 0.1 - 0.1**2 / 2
        else:
            first, second = skill, skill + random.normal(0.1, 0.5, 150)
            truth = 0.1
        found = paired_difference(first, second)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("make", ["binary", "fractions"])
def test_equal_models_are_called_different_no_more_often_than_promised(make: str) -> None:
    random = np.random.default_rng(6)
    called = 0
    for _ in range(300):
        skill = random.random(60)
        if make == "binary":
            first, second = (random.random((2, 60)) < skill).astype(float)
        else:
            first, second = skill + random.normal(0, 0.3, (2, 60))
        called += paired_difference(first, second).p_value < 0.05
    assert called / 300 <= 0.08


def test_a_real_difference_is_found() -> None:
    random = np.random.default_rng(7)
    skill = random.random(500)
    first, second = (random.random((2, 500)) < np.stack([skill, np.minimum(1, skill + 0.15)])).astype(float)
    assert paired_difference(first, second).p_value < 0.01
    assert paired_difference(skill, skill + random.normal(0.1, 0.5, 500)).p_value < 0.01


PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=12
)


@given(PAIRS)
def test_a_comparison_turned_round_says_the_opposite(pairs: list[tuple[float, float]]) -> None:
    first, second = (np.array(values) for values in zip(*pairs, strict=True))
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.difference == -other.difference
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.low <= one.difference + 1e-12
    assert one.difference <= one.high + 1e-12
    assert 0 < one.p_value <= 1


def test_the_same_scores_give_the_same_answer_each_time() -> None:
    random = np.random.default_rng(8)
    first, second = random.random((2, 50))
    assert paired_difference(first, second) == paired_difference(first, second)


def test_identical_models_do_not_differ() -> None:
    for values in (ones(3, 9), np.linspace(0, 1, 9)):
        found = paired_difference(values, values)
        assert (found.difference, found.p_value) == (0, 1)
        # Nine documents without a difference leave room for some in others.
        assert -0.5 < found.low < -0.2
        assert 0.2 < found.high < 0.5


def test_models_without_shared_documents_do_not_differ() -> None:
    found = paired_difference(np.array([]), np.array([]))
    assert (found.n, found.p_value) == (0, 1)
    assert np.isnan(found.difference)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 2), (2, 2))])
def test_vectors_that_are_not_aligned_are_refused(shapes: Any) -> None:
    with pytest.raises(ValueError, match="aligned"):
        paired_difference(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_a_large_benchmark_does_not_fill_the_servers_memory() -> None:
    first, second = np.random.default_rng(9).random((2, 20_000))
    tracemalloc.start()
    paired_difference(first, second)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(10).random((2, 30)) ** 4  # few calls: statsmodels collects all garbage at each
    p_values[1, :10] = p_values[1, 10]  # ties
    for given_values in p_values:
        assert holm(list(given_values)) == pytest.approx(list(multipletests(given_values, method="holm")[1]))


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lowers_no_p_value(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert [round(p, 12) for p in sorted(adjusted)] == [round(adjusted[at], 12) for at in np.argsort(p_values)]
    assert all(p <= its <= 1 for p, its in zip(p_values, adjusted, strict=True))
    if p_values:
        assert min(adjusted) == pytest.approx(min(1.0, min(p_values) * len(p_values)))


def test_holm_gives_the_textbook_values() -> None:
    """Holm's procedure on p = 0.01, 0.04, 0.03, 0.005: the smallest times 4, the next times 3, and so on, rising."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
