"""Groups of documents: gaps against published examples and statsmodels, and the rules of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import confint_proportions_2indep

from mlflow_lmms.analysis.estimates import Difference, Mean, PairedShares, Share, Told, WithError, p_value
from mlflow_lmms.analysis.group_estimates import (
    Moments,
    from_bootstraps,
    from_moments,
    from_pairs,
    from_scores,
    from_two_runs,
)
from mlflow_lmms.analysis.groups import Groups
from mlflow_lmms.analysis.non_inferiority import Outcome
from mlflow_lmms.analysis.slices import Dimension, Group, compare_groups, judge_slices

Values = NDArray[np.float64]


def groups_of(**sizes: int) -> Groups:
    return Groups.of([name for name, size in sizes.items() for _ in range(size)])


def right(*counts: tuple[int, int]) -> Values:
    """For each group some right answers, then wrong ones."""
    return np.array([1.0 if at < count else 0.0 for count, of in counts for at in range(of)])


def report(values: Values, groups: Groups, *, higher_is_better: bool | None = True, factor: float = 1.0) -> Dimension:
    (found,) = compare_groups({"kind": from_scores(values, groups)}, higher_is_better=higher_is_better, factor=factor)
    return found


def named(found: Dimension) -> dict[str, Group]:
    return {group.name: group for group in found.groups}


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_the_gap_of_two_shares_has_the_published_intervals(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe (1998), "Interval estimation for the difference between independent proportions", method 10."""
    assert Difference(Share(*first), Share(*second)).interval() == pytest.approx((low, high), abs=6e-5)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
def test_the_gap_of_two_shares_agrees_with_statsmodels(a: int, n: int, b: int, m: int) -> None:
    a, b = min(a, n), min(b, m)
    expected = confint_proportions_2indep(a, n, b, m, method="newcomb")
    assert Difference(Share(a, n), Share(b, m)).interval() == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.5, 0.999))
def test_a_share_agrees_with_scipy_at_any_level(count: int, n: int, level: float) -> None:
    count = min(count, n)
    expected = stats.binomtest(count, n).proportion_ci(level, method="wilson")
    assert Share(count, n).interval(level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("sizes", [(400, 300), (2000, 90)])
def test_the_gap_of_two_means_is_welchs_for_many_documents(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    one, two = rng.normal(0.6, 0.2, sizes[0]), rng.normal(0.55, 0.3, sizes[1])
    welch = stats.ttest_ind(one, two, equal_var=False)
    gap = Difference(*(Mean(float(x.mean()), float(x.std(ddof=1)), len(x)) for x in (one, two)))
    assert gap.interval() == pytest.approx(tuple(welch.confidence_interval()), abs=2e-3)
    assert p_value(gap) == pytest.approx(welch.pvalue, rel=0.1)


def test_the_test_of_an_estimate_with_an_error_is_students() -> None:
    expected = 2 * stats.t.sf(0.3 / 0.12, 9)
    assert p_value(WithError(0.3, 0.12, 9)) == pytest.approx(expected, rel=1e-5)
    assert p_value(WithError(-0.3, 0.12, 9)) == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(61, 99))
def test_interval_and_test_never_contradict_each_other(a: int, b: int, c: int, d: int, n: int) -> None:
    gap = Difference(PairedShares(a, b, n), PairedShares(c, d, n))
    low, high = gap.interval()
    p = p_value(gap)
    assert low <= gap.value <= high
    if abs(p - 0.05) > 1e-3:
        assert (p < 0.05) == (low > 0 or high < 0)


def test_one_of_a_bootstrap_scales_with_the_level() -> None:
    told = Told(0.5, 0.4, 0.7)
    assert told.interval() == (0.4, 0.7)
    assert told.interval(0.99) == pytest.approx(
        (0.5 - 0.1 * 2.5758 / 1.95996, 0.5 + 0.2 * 2.5758 / 1.95996), abs=1e-4
    )


def test_the_rest_of_a_group_is_all_other_groups() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.random(90), groups_of(a=20, b=30, c=40)
    found = named(report(values, groups))
    for name, places in groups.members():
        rest = np.setdiff1d(np.arange(90), places)
        gap = found[name].to_rest
        assert gap is not None
        assert gap.value == pytest.approx(values[places].mean() - values[rest].mean())
        expected = Difference(
            *(Mean(float(values[at].mean()), float(values[at].std(ddof=1)), len(at)) for at in (places, rest))
        )
        assert (gap.low, gap.high) == pytest.approx(expected.interval())


def test_worst_best_gap_and_ratio_follow_the_direction() -> None:
    values, groups = right((30, 40), (20, 40), (10, 40)), groups_of(a=40, b=40, c=40)
    found = report(values, groups, factor=100.0)
    assert (found.best, found.worst, found.gap) == ("a", "c", 50.0)
    assert found.ratio == pytest.approx(1 / 3)
    lower = report(values, groups, higher_is_better=False)
    assert (lower.best, lower.worst) == ("c", "a")
    assert lower.ratio == pytest.approx(1 / 3)
    neither = report(values, groups, higher_is_better=None)
    assert (neither.best, neither.worst) == (None, None)
    assert named(neither)["a"].to_best is None
    gap = named(found)["c"].to_best
    assert gap is not None
    assert (gap.value, gap.shown) == (-50.0, True)


def test_small_groups_are_shown_and_not_judged() -> None:
    found = report(right((0, 9), (15, 30), (20, 30)), groups_of(a=9, b=30, c=30))
    small = named(found)["a"]
    assert (small.n, small.score, small.judged, small.to_rest, small.to_best) == (9, 0.0, False, None, None)
    assert small.low == 0.0
    assert found.worst == "b"


def test_a_group_whose_rest_is_small_has_no_gap() -> None:
    found = named(report(right((5, 9), (15, 30)), groups_of(a=9, b=30)))
    assert found["b"].to_rest is None


def test_holm_runs_over_all_dimensions() -> None:
    values = right((30, 40), (18, 40))
    groups = groups_of(a=40, b=40)
    alone = named(report(values, groups))["a"].to_rest
    estimates = {f"kind {at}": from_scores(values, groups) for at in range(10)}
    many = [named(found)["a"].to_rest for found in compare_groups(estimates, higher_is_better=True)]
    assert alone is not None
    assert alone.adjusted == pytest.approx(2 * alone.p_value)
    assert alone.shown
    for gap in many:
        assert gap is not None
        assert gap.adjusted == pytest.approx(20 * alone.p_value)


def test_gaps_to_the_best_are_corrected_for_each_pair() -> None:
    found = named(report(right((30, 40), (28, 40), (20, 40), (29, 40)), groups_of(a=40, b=40, c=40, d=40)))
    gap = found["c"].to_best
    assert gap is not None
    assert gap.adjusted == pytest.approx(min(1.0, 6 * gap.p_value))
    assert found["a"].to_best is None


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_scores_that_are_all_equal_leave_room_for_what_was_not_seen(value: float) -> None:
    found = named(report(np.full(40, value), groups_of(a=12, b=28)))
    gap = found["a"].to_rest
    assert gap is not None
    assert (gap.value, gap.p_value) == (0.0, 1.0)
    assert gap.low < 0 < gap.high


def test_sums_and_scores_of_documents_tell_the_same() -> None:
    rng = np.random.default_rng(3)
    groups = groups_of(a=25, b=35)
    for values in (rng.random(60), (rng.random(60) < 0.4).astype(float)):
        moments = [
            Moments(name, len(at), float(values[at].mean()), float(values[at].std(ddof=1)))
            for name, at in groups.members()
        ]
        binary = set(values) <= {0.0, 1.0}
        by_sums = from_moments(moments, binary=binary, least=0.0, most=1.0)
        (one,) = compare_groups({"kind": by_sums}, higher_is_better=True)
        other = report(values, groups)
        for first, second in zip(one.groups, other.groups, strict=True):
            assert first.to_rest is not None
            assert second.to_rest is not None
            assert first.to_rest.p_value == pytest.approx(second.to_rest.p_value)
            assert (first.low, first.high) == pytest.approx((second.low, second.high))


def test_a_metric_of_all_documents_together_is_compared_with_the_best_alone() -> None:
    told = {"a": (50, 12.0, 9.0, 15.5), "b": (60, 30.0, 26.0, 34.0), "c": (5, 99.0, None, None)}
    (found,) = compare_groups({"kind": from_bootstraps(told)}, higher_is_better=False)
    assert (found.best, found.worst) == ("a", "b")
    group = named(found)["b"]
    assert group.to_rest is None
    assert group.to_best is not None
    assert group.to_best.value == 18.0
    assert group.to_best.low == pytest.approx(18 - np.hypot(4, 3.5))
    assert group.to_best.shown
    assert (named(found)["c"].low, named(found)["c"].judged) == (None, False)


def test_nested_clusters_agree_with_statsmodels() -> None:
    """The gap of two groups is a regression on membership with errors clustered; ours corrects each side alone."""
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(80), 5)
    values = rng.normal(0, 1, 80)[clusters] + rng.normal(0, 0.5, 400)
    groups = groups_of(a=200, b=200)
    (first, _) = from_scores(values, groups, clusters)
    gap = first.against(None)
    assert isinstance(gap, WithError)
    design = np.column_stack([np.ones(400), groups.codes == 0])
    fitted = OLS(values, design).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    assert gap.value == pytest.approx(fitted.params[1])
    assert gap.error == pytest.approx(fitted.bse[1] * np.sqrt(40 / 39))
    assert gap.freedom == 39


def test_clusters_that_lie_in_both_groups_cancel_out() -> None:
    """What a cluster's documents share does not blur the gap of groups that both have half of each cluster."""
    rng = np.random.default_rng(12)
    clusters = np.tile(np.arange(40), 10)
    values = rng.normal(0, 1, 40)[clusters] + rng.normal(0, 0.1, 400)
    groups = groups_of(a=200, b=200)
    gaps = [from_scores(values, groups, known)[0].against(None) for known in (clusters, np.arange(400))]
    widths = [np.ptp(gap.interval()) for gap in gaps if gap is not None]
    assert widths[0] < widths[1] / 4


def test_one_cluster_tells_nothing() -> None:
    (first, second) = from_scores(np.arange(40.0), groups_of(a=20, b=20), np.repeat([0, 1], 20))
    assert first.estimate is None
    assert second.against(None) is None


def test_a_change_of_a_gap_is_the_gain_of_a_group_less_that_of_the_rest() -> None:
    first, second = right((20, 40), (20, 40)), right((35, 40), (21, 40))
    (found,) = compare_groups(
        {"kind": from_pairs(first, second, groups_of(a=40, b=40))}, higher_is_better=None, factor=100.0
    )
    group = named(found)["a"]
    assert group.score == 37.5
    assert group.to_rest is not None
    assert group.to_rest.value == pytest.approx(35.0)
    assert group.to_rest.shown
    expected = Difference(PairedShares(15, 0, 40), PairedShares(1, 0, 40)).interval()
    assert (group.to_rest.low, group.to_rest.high) == pytest.approx(tuple(100 * bound for bound in expected))


def test_pairing_finds_a_change_that_independent_documents_do_not() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(400)
    first, groups = (hard < 0.5).astype(float), groups_of(a=200, b=200)
    second = np.where(np.arange(400) < 200, hard < 0.58, hard < 0.5).astype(float)
    paired = from_pairs(first, second, groups)
    unpaired = from_two_runs(from_scores(first, groups), from_scores(second, groups))
    gaps = []
    for estimates in (paired, unpaired):
        (found,) = compare_groups({"kind": estimates}, higher_is_better=None)
        gaps.append(named(found)["a"].to_rest)
    assert gaps[0] is not None
    assert gaps[1] is not None
    assert gaps[0].value == pytest.approx(gaps[1].value)
    assert gaps[0].shown
    assert not gaps[1].shown


def judged(
    first: Values, second: Values, groups: Groups, margin: float, **options: object
) -> Sequence[Outcome | None]:
    found = judge_slices(first, second, {"kind": groups}, margin, **options)  # type: ignore[arg-type]
    return [judgement.outcome for judgement in found]


def test_a_guard_tells_which_group_became_worse() -> None:
    first, second = right((90, 100), (90, 100), (5, 5)), right((50, 100), (90, 100), (0, 5))
    groups = groups_of(a=100, b=100, c=5)
    assert judged(first, second, groups, 0.05) == [Outcome.FAIL, Outcome.PASS, None]
    assert judged(first, second, groups, 0.05, higher_is_better=False) == [Outcome.PASS, Outcome.PASS, None]
    assert judged(first, second, groups, 5.0, factor=100.0) == [Outcome.FAIL, Outcome.PASS, None]
    assert judged(first, first, groups, 0.01) == [Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE, None]


def test_a_guard_over_many_groups_wants_more_proof() -> None:
    loss = right((80, 100)), right((68, 100))
    assert judged(*loss, groups_of(a=100), 0.05) == [Outcome.FAIL]
    many = Groups.of([f"g{at // 100:02}" for at in range(4000)])
    first = np.concatenate([loss[0], np.tile(loss[0], 39)])
    second = np.concatenate([loss[1], np.tile(loss[0], 39)])
    found = judge_slices(first, second, {"kind": many}, 0.05)
    assert found[0].outcome is Outcome.INCONCLUSIVE
    assert "not proven among so many" in found[0].reason


def test_documents_without_a_value_belong_to_no_group() -> None:
    groups = Groups.of(["b", None, "a", "b"])
    assert {name: places.tolist() for name, places in groups.members()} == {"a": [2], "b": [0, 3]}
    assert groups.at(np.array([3, 1])).codes.tolist() == [1, -1]
