"""Sample sizes against statsmodels, a published example and simulation; non-inferiority against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower

from mlflow_lmms.analysis.non_inferiority import Outcome, judge, worst
from mlflow_lmms.analysis.paired_difference import NO_DOCUMENTS, mcnemar, paired_difference
from mlflow_lmms.analysis.power import achieved_power, binary_deviation, documents_needed, smallest_detectable


@pytest.mark.parametrize(("difference", "deviation"), [(0.02, 0.4), (0.1, 1.0), (5.0, 30.0)])
def test_documents_needed_agree_with_statsmodels(difference: float, deviation: float) -> None:
    expected = NormalIndPower(ddof=0).solve_power(difference / deviation, alpha=0.05, power=0.8, ratio=0)
    found = documents_needed(difference, deviation)
    assert found == pytest.approx(expected, abs=1.01)
    assert found is not None
    assert smallest_detectable(deviation, found) <= difference
    assert achieved_power(difference, deviation, found) >= 0.8


def test_three_points_of_difference_take_a_thousand_questions() -> None:
    """Miller (2024), "Adding error bars to evals", section 5: variance of differences 1/9, 3 %, 80 % power."""
    assert documents_needed(0.03, (1 / 9) ** 0.5) == pytest.approx(969, abs=2)


def test_the_planned_number_of_documents_finds_the_difference_as_often_as_planned() -> None:
    random = np.random.default_rng(1)
    wins, losses = 0.15, 0.08
    n = documents_needed(wins - losses, binary_deviation(wins, losses))
    assert n is not None
    counts = random.multinomial(n, [wins, losses, 1 - wins - losses], size=1500)
    found = np.mean([mcnemar(int(won), int(lost)) < 0.05 for won, lost, _ in counts])
    assert 0.74 <= found <= 0.85


def test_no_difference_is_settled_by_no_number_of_documents() -> None:
    assert documents_needed(0.0, 0.5) is None
    assert documents_needed(0.1, 0.0) == 1
    with pytest.raises(ValueError, match="at most 1 together"):
        binary_deviation(0.8, 0.5)


@pytest.mark.parametrize(
    ("gain", "margin", "outcome"),
    [
        (0.1, 0.02, Outcome.PASS),
        (0.0, 0.1, Outcome.PASS),
        (-0.15, 0.02, Outcome.FAIL),
        (0.0, 0.001, Outcome.INCONCLUSIVE),
    ],
)
def test_the_interval_decides(gain: float, margin: float, outcome: Outcome) -> None:
    random = np.random.default_rng(2)
    base = random.random(800)
    found = paired_difference(base, base + gain + random.normal(0, 0.2, 800))
    assert judge(found, margin).outcome is outcome
    turned = paired_difference(base, base - gain + random.normal(0, 0.2, 800))
    assert judge(turned, margin, higher_is_better=False).outcome is outcome


def test_nothing_is_passed_on_too_few_documents_even_if_all_agree() -> None:
    same = np.array([1.0, 0.0, 1.0])
    assert judge(paired_difference(same, same), 0.05).outcome is Outcome.INCONCLUSIVE
    fractions = np.array([0.3, 0.7, 0.2])
    assert judge(paired_difference(fractions, fractions), 0.05).outcome is Outcome.INCONCLUSIVE
    many = np.tile(same, 400)
    assert judge(paired_difference(many, many), 0.05).outcome is Outcome.PASS
    assert judge(NO_DOCUMENTS, 0.05).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("binary", [True, False])
def test_a_candidate_at_the_margin_passes_no_more_often_than_promised(binary: bool) -> None:
    random = np.random.default_rng(3)
    passed = 0
    for _ in range(400):
        if binary:
            wins, losses, _ = random.multinomial(300, [0.05, 0.10, 0.85])
            second = np.r_[np.ones(wins), np.zeros(300 - wins)]
            first = np.r_[np.zeros(wins), np.ones(losses), np.zeros(300 - wins - losses)]
        else:
            first, second = np.zeros(300), random.exponential(0.3, 300) - 0.35
        passed += judge(paired_difference(first, second), 0.05).outcome is Outcome.PASS
    assert passed <= 0.05 * 400


def test_the_worst_outcome_counts_and_says_the_exit_code() -> None:
    assert worst([Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.PASS]) is Outcome.INCONCLUSIVE
    assert worst([Outcome.INCONCLUSIVE, Outcome.FAIL]) is Outcome.FAIL
    assert worst([]) is Outcome.INCONCLUSIVE
    assert [outcome.exit_code for outcome in (Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE)] == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 0"):
        judge(NO_DOCUMENTS, -0.1)
