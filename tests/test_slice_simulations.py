"""What the intervals and verdicts of groups promise, measured on made-up data with fixed seeds.

Bounds are three standard errors of the simulation beyond what is promised.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from mlflow_lmms.analysis.estimates import Difference, Mean, PairedShares, Share
from mlflow_lmms.analysis.group_estimates import from_pairs, from_scores
from mlflow_lmms.analysis.groups import Groups
from mlflow_lmms.analysis.non_inferiority import Outcome
from mlflow_lmms.analysis.paired_difference import paired_difference
from mlflow_lmms.analysis.pairwise import pairwise
from mlflow_lmms.analysis.slices import compare_groups, judge_slices

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Values]


def error(rate: float, times: int) -> float:
    """Three standard errors of a share that was counted so many times."""
    return float(3 * np.sqrt(rate * (1 - rate) / times))


def evenly(count: int, size: int) -> Groups:
    return Groups.of([f"g{at:02}" for at in range(count) for _ in range(size)])


@pytest.mark.parametrize(
    ("one", "two"),
    [((10, 0.5), (10, 0.5)), ((12, 0.9), (300, 0.8)), ((30, 0.02), (90, 0.05)), ((500, 0.7), (500, 0.7))],
)
def test_gaps_of_right_or_wrong_cover_the_true_gap(one: tuple[int, float], two: tuple[int, float]) -> None:
    rng, times = np.random.default_rng(1), 2000
    counts = zip(rng.binomial(*one, times), rng.binomial(*two, times), strict=True)
    inside = 0
    for first, second in counts:
        low, high = Difference(Share(int(first), one[0]), Share(int(second), two[0])).interval()
        inside += low <= one[1] - two[1] <= high
    # Newcombe (1998), table III: mean coverage 0.960, at worst 0.867 over all sizes and shares.
    assert inside / times >= 0.94 - error(0.05, times)


@pytest.mark.parametrize(
    ("draw", "mean", "promised"),
    [
        (lambda rng, n: rng.normal(0.5, 0.2, n), 0.5, 0.95),
        (lambda rng, n: rng.beta(0.5, 0.5, n), 0.5, 0.95),
        (lambda rng, n: rng.beta(8, 1, n), 8 / 9, 0.93),  # skewed: Student's t falls a little short
    ],
)
@pytest.mark.parametrize("sizes", [(10, 10), (15, 200)])
def test_gaps_of_other_scores_cover_the_true_gap(
    draw: Draw, mean: float, promised: float, sizes: tuple[int, int]
) -> None:
    rng, times = np.random.default_rng(2), 1000
    inside = 0
    for _ in range(times):
        sides = [draw(rng, n) for n in sizes]
        low, high = Difference(*(Mean(float(x.mean()), float(x.std(ddof=1)), len(x)) for x in sides)).interval()
        inside += low <= 0 <= high
    assert inside / times >= promised - error(0.05, times), f"mean {mean}"


@pytest.mark.parametrize("nested", [True, False])
def test_gaps_of_clustered_scores_cover_the_true_gap(nested: bool) -> None:
    rng, times = np.random.default_rng(3), 400
    clusters = np.repeat(np.arange(40), 6) if nested else np.tile(np.arange(40), 6)
    groups = evenly(2, 120)
    covered = {"clustered": 0, "blind": 0}
    for _ in range(times):
        values = rng.normal(0, 1, 40)[clusters] + rng.normal(0, 1, 240)
        for kind, known in (("clustered", clusters), ("blind", None)):
            gap = from_scores(values, groups, known)[0].against(None)
            assert gap is not None
            low, high = gap.interval()
            covered[kind] += low <= 0 <= high
    assert covered["clustered"] / times >= 0.95 - error(0.05, times)
    if nested:
        assert covered["blind"] / times < 0.8  # what not knowing of clusters costs


@pytest.mark.parametrize("kind", ["right or wrong", "others"])
@pytest.mark.parametrize(("count", "size"), [(6, 40), (3, 10)])
def test_groups_that_are_alike_are_seldom_told_apart(kind: str, count: int, size: int) -> None:
    """All gaps of a report together give at most one false alarm in twenty reports."""
    rng, times = np.random.default_rng(4), 250
    groups, alarms, to_best = evenly(count, size), 0, 0
    for _ in range(times):
        values = rng.random(count * size)
        scores = (values < 0.7).astype(float) if kind == "right or wrong" else values**2
        (found,) = compare_groups({"kind": from_scores(scores, groups)}, higher_is_better=True)
        alarms += any(group.to_rest is not None and group.to_rest.shown for group in found.groups)
        to_best += any(group.to_best is not None and group.to_best.shown for group in found.groups)
    assert alarms / times <= 0.05 + error(0.05, times)
    assert to_best / times <= 0.05 + error(0.05, times)


@pytest.mark.parametrize(
    ("one", "two"),
    [((10, 0.1, 0.1), (200, 0.1, 0.1)), ((60, 0.15, 0.05), (60, 0.05, 0.02)), ((30, 0.0, 0.0), (300, 0.05, 0.05))],
)
def test_changes_of_gaps_cover_the_true_change(one: tuple[int, float, float], two: tuple[int, float, float]) -> None:
    rng, times, inside = np.random.default_rng(5), 300, 0
    true = (one[1] - one[2]) - (two[1] - two[2])
    for _ in range(times):
        drawn = [rng.multinomial(n, [win, loss, 1 - win - loss]) for n, win, loss in (one, two)]
        sides = [PairedShares(int(won), int(lost), int(won + lost + same)) for won, lost, same in drawn]
        low, high = Difference(*sides).interval()
        inside += low <= true <= high
    assert inside / times >= 0.95 - error(0.05, times)


def test_two_models_that_differ_alike_everywhere_seldom_seem_to_change_a_gap() -> None:
    rng, times, alarms = np.random.default_rng(6), 100, 0
    groups = evenly(4, 50)
    for _ in range(times):
        skill = rng.random(200)
        first = (skill < 0.6).astype(float)
        second = np.where(rng.random(200) < 0.2, rng.random(200) < 0.8, first).astype(float)
        (found,) = compare_groups({"kind": from_pairs(first, second, groups)}, higher_is_better=None)
        alarms += any(group.to_rest is not None and group.to_rest.shown for group in found.groups)
    assert alarms / times <= 0.05 + error(0.05, times)


def test_a_guard_seldom_fails_a_candidate_at_the_margin_and_seldom_passes_one_beyond_it() -> None:
    rng, times, failed, passed = np.random.default_rng(7), 150, 0, 0
    groups = evenly(5, 80)
    for _ in range(times):
        first = (rng.random(400) < 0.8).astype(float)
        lost = rng.random(400) < 0.05 / 0.8
        second = np.where(lost, 0.0, first)  # every group loses 0.05, the margin
        found = judge_slices(first, second, {"kind": groups}, 0.05)
        failed += any(judgement.outcome is Outcome.FAIL for judgement in found)
        passed += all(judgement.outcome is Outcome.PASS for judgement in found)
    assert failed / times <= 0.05 + error(0.05, times)
    assert passed / times <= 0.025 + error(0.025, times)


def test_clustered_pairs_keep_their_promise_with_missing_scores() -> None:
    """A quarter of the scores is missing at random, clusters are of different sizes."""
    rng, times = np.random.default_rng(8), 300
    clusters = np.repeat(np.arange(45), rng.integers(1, 10, 45))
    inside = alarms = 0
    for _ in range(times):
        delta = rng.normal(0, 0.3, 45)[clusters] + rng.normal(0, 0.2, len(clusters))
        first = rng.random(len(clusters))
        there = rng.random(len(clusters)) < 0.75
        found = paired_difference(first[there], (first + delta)[there], clusters[there])
        inside += found.low <= 0 <= found.high
        alarms += found.p_value < 0.05
    assert inside / times >= 0.94 - error(0.05, times)
    assert alarms / times <= 0.05 + error(0.05, times)


@pytest.mark.parametrize("missing", [False, True])
def test_ranks_of_clustered_scores_use_the_test_of_each_pair(missing: bool) -> None:
    rng = np.random.default_rng(9)
    clusters = np.repeat(np.arange(25), 4)
    scores = (rng.random((4, 100)) < 0.6).astype(float)
    if missing:
        scores[1, 3:9] = np.nan
    found = pairwise(scores, clusters)
    for one in range(4):
        for other in range(one):
            both = np.isfinite(scores[one]) & np.isfinite(scores[other])
            expected = paired_difference(scores[other, both], scores[one, both], clusters[both])
            assert found.p_value[one, other] == pytest.approx(expected.p_value, abs=1e-9)
            assert found.difference[one, other] == pytest.approx(expected.difference)


def test_clusters_that_all_agree_leave_room_for_others() -> None:
    same = np.ones(60)
    found = paired_difference(same, same, np.repeat(np.arange(6), 10))
    alone = paired_difference(same, same, np.arange(60))
    assert (found.difference, found.p_value) == (0.0, 1.0)
    half = paired_difference(np.array([0.0, 1.0] * 30), np.array([0.0, 1.0] * 30), np.repeat(np.arange(6), 10))
    assert half.low < -0.3
    assert half.high > 0.3
    assert alone.high <= found.high
