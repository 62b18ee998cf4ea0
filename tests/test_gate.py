"""Gates: what passes, what fails, what is left open, and that nothing doubtful passes by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from runner_files import FINGERPRINT

from mlflow_lmms.analysis.non_inferiority import Outcome
from mlflow_lmms.analysis.paired_difference import paired_difference
from mlflow_lmms.analysis.weighted_gain import TaskGain, weighted_gain
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.gate_rules import GateRequest, Loss, TaskRule, task_rules
from mlflow_lmms.gate_verdict import Gate, run_gate
from mlflow_lmms.score import Score
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector
from mlflow_lmms.suite import Suite

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
Values = Sequence[float]


@dataclass(frozen=True)
class Group:
    dimension: str
    value: str
    outcome: Outcome | None
    n: int = 50
    gain: float = 0.0
    low: float = -0.01
    high: float = 0.01
    reason: str = "because"


def score(run_id: str, task: str, values: Values, **fields: Any) -> Score:
    value = float(np.nanmean(values)) if len(values) else 0.5
    made = Score(
        run_id=run_id, experiment_id="1", model=f"model of {run_id}", suite="s", task=task, metric="acc",
        filter="none", value=value, low=None, high=None, n=len(values), higher_is_better=True, partial=False,
        attempt=1, fingerprint=FINGERPRINT | {"dataset": task}, recorded_at=1.0, factor=1.0, scale_high=1.0,
    )  # fmt: skip
    return replace(made, **fields)


def rule(task: str = "t", margin: float = 0.05, **fields: Any) -> TaskRule:
    return TaskRule(task, Loss(margin), **fields)


def gated(
    baseline: Mapping[str, Values],
    candidate: Mapping[str, Values],
    rules: Sequence[TaskRule] = (),
    *,
    both: Mapping[str, Any] | None = None,
    one: Mapping[str, Any] | None = None,
    groups: Sequence[Group] = (),
    **options: Any,
) -> Gate:
    """Judge; `both` changes the scores of both, `one` the candidate's alone."""
    known = {"baseline": baseline, "candidate": candidate}
    first = {task: score("baseline", task, values, **(both or {})) for task, values in baseline.items()}
    changed = {**(both or {}), **(one or {})}
    second = {task: score("candidate", task, values, **changed) for task, values in candidate.items()}

    def vectors(wanted: Score) -> ScoreVector | None:
        values = np.array(known[wanted.run_id][wanted.task], dtype=float)
        keys = DocumentKeys(np.array([f"{n:06d}".encode() for n in range(len(values))], dtype=np.bytes_), None)
        return ScoreVector(values, lambda: keys) if len(values) else None

    asked = rules or [rule(task) for task in baseline]
    return run_gate(first, second, asked, vectors, lambda *_: groups, **options)


def right(first: int, last: int, of: int = 1000) -> list[float]:
    return [float(first <= number < last) for number in range(of)]


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        (right(0, 500), PASS),
        (right(0, 520), PASS),
        (right(0, 490), PASS),
        (right(0, 400), FAIL),
        (right(0, 455), OPEN),
    ],
)
def test_the_loss_is_judged_by_its_interval(candidate: Values, outcome: Outcome) -> None:
    found = gated({"t": right(0, 500)}, {"t": candidate})
    assert (found.outcome, found.tasks[0].outcome) == (outcome, outcome)
    task = found.tasks[0]
    assert task.gain is not None and task.low is not None and task.high is not None
    assert task.low < task.gain < task.high
    assert found.as_json()["exit_code"] == {PASS: 0, FAIL: 1, OPEN: 2}[outcome]


def test_where_lower_is_better_a_rise_is_a_loss() -> None:
    lower = {"higher_is_better": False}
    found = gated({"t": right(0, 500)}, {"t": right(0, 600)}, both=lower)
    assert found.outcome is FAIL
    assert found.tasks[0].gain == pytest.approx(-0.1)
    assert gated({"t": right(0, 500)}, {"t": right(0, 400)}, both=lower).outcome is PASS


def test_percentages_have_margins_in_percent_and_shares_are_of_the_scale() -> None:
    percent = {"factor": 100.0, "scale_high": 100.0}
    scores = {"t": right(0, 500)}, {"t": right(0, 480)}
    assert gated(*scores, [rule(margin=0.05)], both=percent).outcome is FAIL
    assert gated(*scores, [rule(margin=5)], both=percent).outcome is PASS
    shared = gated(*scores, [TaskRule("t", Loss(0.05, of_scale=True))], both=percent)
    assert (shared.outcome, shared.tasks[0].margin) == (PASS, 5.0)
    assert shared.mean.gain == pytest.approx(-0.02)


@pytest.mark.parametrize(
    ("both", "one", "words"),
    [
        ({"partial": True}, {}, "part of the documents"),
        ({}, {"warnings": ("empty_responses",)}, "flagged: empty responses"),
        ({"warnings": ("below_chance",)}, {}, "flagged: below chance"),
        ({}, {"fingerprint": FINGERPRINT | {"dataset": "t", "generation": "other"}}, "generation settings differ"),
        ({}, {"fingerprint": {}}, "documents"),
        ({}, {"metric": "f1"}, "scored by f1"),
        ({"source": "reported"}, {}, "published"),
        ({"higher_is_better": None}, {}, "is better is not known"),
    ],
)
def test_a_doubtful_result_is_left_open_however_good_it_is(
    both: Mapping[str, Any], one: Mapping[str, Any], words: str
) -> None:
    found = gated({"t": right(0, 500)}, {"t": right(0, 900)}, both=both, one=one)
    assert found.outcome is OPEN
    assert words in found.tasks[0].reason
    assert found.mean.outcome is OPEN


def test_what_is_asked_for_may_pass_although_it_is_doubtful() -> None:
    scores = {"t": right(0, 500)}, {"t": right(0, 600)}
    assert gated(*scores, both={"partial": True}, partial=True).outcome is PASS
    flagged = gated(*scores, one={"warnings": ("empty_responses",)}, flagged=True)
    assert (flagged.outcome, flagged.tasks[0].flags) == (PASS, ("empty_responses",))


def test_a_missing_result_is_left_open_and_named() -> None:
    found = gated({"a": right(0, 500), "b": right(0, 500)}, {"a": right(0, 600)})
    assert [task.outcome for task in found.tasks] == [PASS, OPEN]
    assert "the candidate has no result" in found.tasks[1].reason
    assert found.outcome is OPEN
    assert (found.mean.outcome, found.mean.counted, found.mean.of) == (OPEN, 1, 2)
    nobody = gated({}, {}, [rule()])
    assert "candidate and the baseline have no result" in nobody.tasks[0].reason
    assert gated({}, {}, []).outcome is OPEN


def test_another_metric_than_the_suite_wants_is_left_open() -> None:
    scores = {"t": right(0, 500)}, {"t": right(0, 500)}
    assert "wants f1" in gated(*scores, [rule(primary="f1")]).tasks[0].reason
    assert gated(*scores, [rule(primary="acc:none")]).outcome is PASS


def test_documents_that_the_candidate_leaves_out_count_as_lost() -> None:
    """Blank answers that a policy drops: the candidate looks perfect on the rest."""
    few = [1.0 if n < 450 else float("nan") if n < 500 else 0.0 for n in range(1000)]
    whole = gated({"t": right(0, 500)}, {"t": right(0, 500)})
    found = gated({"t": right(0, 500)}, {"t": few}, [rule(margin=0.02)])
    assert whole.outcome is PASS
    assert found.outcome is OPEN
    assert found.tasks[0].unpaired == 50
    assert found.tasks[0].gain == pytest.approx(0.0)
    assert "count as lost" in found.tasks[0].reason


def test_without_documents_the_intervals_of_both_results_decide() -> None:
    told = {"low": 0.48, "high": 0.52, "factor": None}
    near = gated({"t": []}, {"t": []}, both=told)
    assert near.outcome is PASS
    assert near.tasks[0].low == pytest.approx(-0.02 * 2**0.5)
    assert "unpaired" in (near.tasks[0].method or "")
    assert gated({"t": []}, {"t": []}, [rule(margin=0.01)], both=told).outcome is OPEN
    assert gated({"t": []}, {"t": []}, both={"factor": None}).outcome is OPEN


def test_an_unknown_scale_is_no_scale_of_one() -> None:
    unknown = {"scale_high": None}
    scores = {"t": right(0, 500)}, {"t": right(0, 500)}
    share = gated(*scores, [TaskRule("t", Loss(0.05, of_scale=True))], both=unknown)
    assert share.outcome is OPEN
    assert "scale" in share.tasks[0].reason
    own = gated(*scores, [rule(margin=0.05)], both=unknown)
    assert own.tasks[0].outcome is PASS
    assert (own.mean.outcome, own.outcome) == (OPEN, OPEN)


def test_the_mean_weighs_tasks_and_may_fail_where_no_task_does() -> None:
    baseline = {f"t{n}": right(0, 500, 700) for n in range(12)}
    candidate = {f"t{n}": right(8, 480, 700) for n in range(12)}
    rules = [rule(f"t{n}", 0.03, weight=1 + n) for n in range(12)]
    found = gated(baseline, candidate, rules)
    assert all(task.outcome is OPEN for task in found.tasks)
    assert found.mean.outcome is FAIL
    assert found.mean.margin == pytest.approx(0.03)
    assert gated(baseline, candidate, rules, suite_margin=0.1).mean.outcome is PASS


def test_groups_decide_too() -> None:
    scores = {"t": right(0, 500)}, {"t": right(0, 500)}
    asked = [rule(slices=Loss(0.05), dimensions=("kind",))]

    def of(*outcomes: Outcome | None, **options: Any) -> Outcome:
        found = [Group("kind", str(at), outcome) for at, outcome in enumerate(outcomes)]
        return gated(*scores, asked, groups=found, **options).outcome

    assert of(PASS, None) is PASS
    assert of(PASS, FAIL, None) is FAIL
    assert of(PASS, OPEN) is OPEN
    assert of(PASS, OPEN, lenient_slices=True) is PASS
    assert of(FAIL, OPEN, lenient_slices=True) is FAIL


def test_groups_that_are_asked_for_and_not_there_are_left_open() -> None:
    scores = {"t": right(0, 500)}, {"t": right(0, 500)}
    asked = [rule(slices=Loss(0.05), dimensions=("kind", "language"))]
    found = gated(*scores, asked, groups=[Group("kind", "chart", PASS)])
    assert found.outcome is OPEN
    assert [(group.dimension, group.outcome) for group in found.tasks[0].groups] == [
        ("kind", PASS),
        ("language", OPEN),
    ]
    assert gated(*scores, [rule(slices=Loss(0.05))]).outcome is OPEN
    assert gated(*scores, [rule()]).outcome is PASS


def test_margins_come_from_the_request_before_the_suite() -> None:
    suite = Suite.parse(
        {
            "name": "s",
            "tasks": [{"task": "g", "margin": 0.5, "slice_margin": 2, "weight": 3, "dimensions": ["d"]}, "x"],
        }
    )
    leaves = {"g": ["a", "b"], "x": ["x"]}

    def rules(**asked: Any) -> dict[str, TaskRule]:
        request = GateRequest(candidate="c", baseline="b", **asked)
        return {found.task: found for found in task_rules(request, suite, leaves, [])}

    with pytest.raises(InvalidRequestError, match=r"no margin is known for x.*--margin"):
        rules()
    own = rules(margins={"x": 0.1})
    assert [own[task].margin for task in "abx"] == [Loss(0.5), Loss(0.5), Loss(0.1)]
    assert (own["a"].weight, own["a"].slices, own["a"].dimensions, own["x"].slices) == (3, Loss(2), ("d",), None)
    general = rules(margin=0.01, margins={"b": 7}, slice_margin=0.2, dimensions=("e",))
    assert [general[task].margin for task in "abx"] == [Loss(0.01, True), Loss(7), Loss(0.01, True)]
    assert {(found.slices, found.dimensions) for found in general.values()} == {(Loss(0.2, True), ("e",))}
    with pytest.raises(InvalidRequestError, match="typo is none of the tasks"):
        rules(margin=0.1, margins={"typo": 1})


def test_a_weighted_mean_of_known_intervals() -> None:
    found = weighted_gain([TaskGain(0.1, 0.04, 0.16, 1), TaskGain(-0.02, -0.1, 0.02, 3)])
    assert found.gain == pytest.approx(0.01)
    assert found.low == pytest.approx(0.01 - (0.06**2 + (3 * 0.08) ** 2) ** 0.5 / 4)
    assert found.high == pytest.approx(0.01 + (0.06**2 + (3 * 0.04) ** 2) ** 0.5 / 4)
    same = [TaskGain(0.1, 0.0, 0.2, 1, "d"), TaskGain(0.3, 0.2, 0.4, 1, "d")]
    assert weighted_gain(same).low == pytest.approx(0.1), "tasks over the same documents err together"
    with pytest.raises(ValueError, match="at least one task"):
        weighted_gain([])


@pytest.mark.parametrize("documents", [15, 60, 400])
def test_the_interval_of_the_mean_covers_as_often_as_it_says(documents: int) -> None:
    """Binary and continuous tasks of unequal size and weight, hardly any documents telling the models apart."""
    random = np.random.default_rng(documents)
    weights, covered, rounds = (1.0, 3.0, 0.5, 2.0), 0, 400
    truth = float(np.average([0.05, -0.02, 0.0, 0.03], weights=weights))
    for _ in range(rounds):
        parts = []
        for at, weight in enumerate(weights):
            n = documents * (1 + at)
            if at < 2:
                won, lost = ((0.15, 0.1), (0.02, 0.04))[at]
                drawn = random.choice([1, -1, 0], size=n, p=[won, lost, 1 - won - lost])
                first, second = (drawn < 0).astype(float), (drawn > 0).astype(float)
            else:
                first = random.random(n)
                second = first + (0.0, 0.03)[at - 2] + random.normal(0, 0.2, n)
            told = paired_difference(first, second)
            parts.append(TaskGain(told.difference, told.low, told.high, weight))
        found = weighted_gain(parts)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / rounds <= 0.995


def test_a_gate_hardly_ever_passes_a_loss_as_large_as_its_margin() -> None:
    """The promise of non-inferiority: at most 2.5 % of candidates that are worse by just the margin pass."""
    random = np.random.default_rng(4)
    passed = 0
    for _ in range(400):
        first = (random.random(300) < 0.6).astype(float)
        second = np.where(random.random(300) < 0.05, 0.0, first) * 1.0
        passed += gated({"t": first.tolist()}, {"t": second.tolist()}, [rule(margin=0.03)]).outcome is PASS
    assert passed <= 0.045 * 400
