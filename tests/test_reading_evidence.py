"""Errored samples and their policies, options and chance, and scores that moved."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlflow_lmms.reading.chance import answer_index, at_most_by_chance, likelihoods, prompt_options, stated_options
from mlflow_lmms.reading.errored import (
    ErroredPolicy,
    PolicyName,
    apply_policy,
    errored_reason,
    is_scored,
)
from mlflow_lmms.reading.judge_verdict import judge_verdict
from mlflow_lmms.reading.sample_facts import SampleFacts
from mlflow_lmms.reading.score_moved import OutputComparison, compare_outputs, score_moved
from mlflow_lmms.reading.score_sums import ScoreSums


@pytest.mark.parametrize(
    ("responses", "values", "judged", "scored", "reason"),
    [
        (["a cat"], {"acc": 0.0}, False, True, None),
        (["", " \n"], {"acc": 0.0}, False, True, "blank answer"),
        (["", "a cat"], {"acc": 0.0}, False, True, None),  # one of several answers is enough
        ([None], {}, False, False, "blank answer"),
        (["[LMMS_EVAL_REQUEST_FAILED after 5 retries] 503"], {"acc": 0.0}, False, True, "request failed"),
        (["", ["[LMMS_EVAL_BUDGET_EXCEEDED]"]], {"acc": 0.0}, False, True, "request failed"),
        (["[LMMS_EVAL_BUDGET_EXCEEDED]", "a cat"], {"acc": 0.0}, False, True, None),
        (["a cat"], {"gpt_eval_score": -1}, False, True, "judge failed"),
        (["a cat"], {"balance": -1}, False, True, None),
        (["a cat"], {"accuracy": {"score": -1}}, True, True, "judge failed"),
        (["a cat"], {"acc": None}, False, False, "no score"),
    ],
)
def test_errored_samples(
    responses: list[Any], values: dict[str, Any], judged: bool, scored: bool, reason: str | None
) -> None:
    failed = judge_verdict(values, judged=judged) == "failed"
    assert errored_reason(responses, generates=True, judge_failed=failed, scored=scored) == reason


@pytest.mark.parametrize(
    ("metric", "values", "scored"),
    [
        ("acc", {"acc": 0.0}, True),
        ("wer", {"wer": {"gt": "a", "hyp": "b"}}, True),  # a corpus-level metric
        ("perception", {"cognition": {"score": 1.0}}, True),  # about other documents
        ("acc", {"acc": None}, False),
        ("acc", {"acc": float("nan"), "f1": 1.0}, False),
        ("acc", {}, False),
        (None, {}, True),
    ],
)
def test_scored_samples(metric: str | None, values: dict[str, Any], scored: bool) -> None:
    assert is_scored(metric, values) is scored


def test_deeply_nested_responses_are_no_trouble() -> None:
    nested: Any = ""
    for _ in range(100_000):
        nested = [nested]
    assert errored_reason([nested], generates=True) is None
    assert likelihoods([nested, nested]) is None
    facts = SampleFacts("generate_until")
    assert facts.add(nested, target=nested, responses=[nested], values={"acc": nested}) is None


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ({"gpt_review": "Error code: 401 - Incorrect API key provided"}, "failed"),
        ({"judge_response": "Request timed out."}, "failed"),
        ({"judge_response": "Error: connection refused"}, "failed"),
        ({"review": "Failed to Get a Proper Review.", "scores": [-1, -1]}, "failed"),
        ({"judge_score": float("nan")}, "failed"),
        ({"judge_error": "APIConnectionError"}, "failed"),
        ({"judge_error": None, "judge_response": "Yes"}, "answered"),
        ({"judge_response": "The answer is correct. Score: 1"}, "answered"),
        ({"judge_response": "Error analysis: the model missed one object, so 3."}, "answered"),
        ({"judge_response": "The model claims a 429 and a rate limit sign on the road. Wrong."}, "answered"),
        ({"judge_score": 0}, "answered"),
        ({"judge_response": ""}, "blank"),
        ({"judge_response": None, "score": 0}, "blank"),
        ({"chatgpt_response": None, "rating": 1}, None),  # a rule found it right, nobody was asked
        ({"eval_answer": ["", ""]}, "blank"),
        ({"pred": "", "answer": "-1"}, None),
        ({"video-llm-prediction": "", "judge_model": ""}, None),
        ({"error": "Invalid response format", "score": 0}, None),  # the model's answer, not the judge's
    ],
)
def test_what_a_judge_left(value: Any, verdict: str | None) -> None:
    assert judge_verdict({"accuracy": value}, judged=False) == verdict


def test_marks_and_errors_of_a_judged_task() -> None:
    assert judge_verdict({"accuracy": {"score": -1}}, judged=True) == "failed"
    assert judge_verdict({"accuracy": {"scores": [-1, 3]}}, judged=True) is None
    assert judge_verdict({"accuracy": {"correct": False, "error": "No API client"}}, judged=True) == "failed"
    assert judge_verdict({"gpt_eval_score": -1, "other": 1}, judged=False) == "failed"
    assert judge_verdict({"reward": -1}, judged=False) is None


@pytest.mark.parametrize(
    ("policy", "higher", "factor", "value", "n", "note"),
    [
        ("as_scored", True, 100.0, 60.0, 10, None),
        ("drop", True, 100.0, 75.0, 8, None),
        ("wrong", True, 100.0, 50.0, 12, None),  # two more have no score at all
        ("wrong", False, 100.0, 60.0, 10, "worst"),
        ("wrong", None, 100.0, 60.0, 10, "worst"),
        ("drop", True, None, 60.0, 10, "corpus-level"),
    ],
)
def test_policies(
    policy: PolicyName, higher: bool | None, factor: float | None, value: float, n: int, note: str | None
) -> None:
    sound, errored = ScoreSums.of([1.0] * 6 + [0.0] * 2), ScoreSums.of([0.0] * 2)
    outcome = apply_policy(ErroredPolicy(policy), 60.0, factor, sound, errored, 4, 12, higher)
    assert outcome.value == pytest.approx(value)
    assert outcome.n == n
    assert (outcome.note is None) == (note is None)
    assert note is None or note in str(outcome.note)
    assert outcome.failed is None


def test_a_metric_of_some_documents_counts_its_own_errored_ones() -> None:
    sound, errored = ScoreSums.of([1.0] * 8), ScoreSums.of([0.0] * 2)
    outcome = apply_policy(ErroredPolicy("wrong"), 0.8, 1.0, sound, errored, 4, 20, True)
    assert outcome.value == pytest.approx(0.8)
    assert outcome.n == 10


def test_too_many_errored_samples_fail() -> None:
    sound, errored = ScoreSums.of([1.0] * 9), ScoreSums.of([0.0])
    assert apply_policy(ErroredPolicy("drop", 0.1), 0.9, 1.0, sound, errored, 1, 10, True).failed is None
    failed = apply_policy(ErroredPolicy("as_scored", 0.05), 0.9, 1.0, sound, errored, 1, 10, True).failed
    assert failed == "1 of 10 samples are errored (10.0%), more than the 5.0% that this run allows"
    assert apply_policy(ErroredPolicy("drop"), 0.0, 1.0, ScoreSums(), errored, 1, 1, True).value is None


@pytest.mark.parametrize(
    ("responses", "values"),
    [
        ([["-2.5", "False"], ["-1.0", "True"]], [-2.5, -1.0]),
        ([[["-2.5", "False"]], [["-1.0", "True"]]], [-2.5, -1.0]),
        (["(-2.5, False)", "(-1.0, True)"], [-2.5, -1.0]),
        ([(-2.5, False), (-1.0, True)], [-2.5, -1.0]),
        (['["-2.5", "False"]', '["-1.0", "True"]'], [-2.5, -1.0]),
        (["a", "b"], None),
        ([["-2.5", "False"]], None),
        (["-2.5", "-1.0"], None),
        ([["nan", "False"], ["1", "True"]], None),
    ],
)
def test_likelihoods(responses: Any, values: list[float] | None) -> None:
    assert likelihoods(responses) == values


@pytest.mark.parametrize(
    ("target", "place"), [("2", 2), (1, 1), ("C", 2), (" b ", 1), ("cat", None), (True, None), (-1, None)]
)
def test_answer_index(target: Any, place: int | None) -> None:
    assert answer_index(target) == place


_PROMPT = "Which?\nA. red\nB. blue\nC. green\nAnswer with the letter."


@pytest.mark.parametrize(
    ("text", "target", "options"),
    [
        (_PROMPT, "B", 3),
        (_PROMPT, "(b)", 3),
        (_PROMPT, "green", 3),
        (_PROMPT, "D", None),  # not one of them
        (_PROMPT, "AB", None),  # several answers: guessing is another thing
        (f"Q\nA) yes\nB) no\nAnswer: A\n\n{_PROMPT}", "C", 3),  # an example before it
        ("A. only", "A", None),
        ("B. odd\nC. start", "B", None),
        ("no options", "A", None),
        ("(A) x\n(B) y\n(C) z\n(D) w", "d", 4),
    ],
)
def test_prompt_options(text: str, target: Any, options: int | None) -> None:
    assert prompt_options(text, target) == options


def test_stated_options() -> None:
    assert stated_options(None, '["Man", "Woman", "Child"]') == 3
    assert stated_options(["a", "b"]) == 2
    assert stated_options("[broken", 3, ["a"], "[" * 10_000) is None


@given(st.integers(1, 400), st.floats(0.02, 0.98), st.data())
def test_chance_is_the_binomial_tail(n: int, share: float, data: Any) -> None:
    right = data.draw(st.integers(0, n))
    assert at_most_by_chance(right, n, share) == pytest.approx(stats.binom.cdf(right, n, share), abs=1e-9)


def test_a_score_that_moved_more_than_its_answers() -> None:
    pairs = [(f"document {i}", "x" if i < 90 else f"new {i}", "x", 1.0 if i < 90 else 0.0, 0.0) for i in range(125)]
    outputs = compare_outputs(pairs)
    assert outputs == OutputComparison(125, 90, 90, ("document 0", "document 1", "document 2"))
    warning = score_moved(0.984, 0.0, outputs, high=1.0, earlier="run abc")
    assert warning is not None
    assert (warning.name, warning.count, warning.of) == ("score_moved", 90, 125)
    assert "run abc" in warning.message
    assert score_moved(12.0, 5.1, OutputComparison(3151, 3134, 0), high=100.0) is not None


@pytest.mark.parametrize(
    ("score", "before", "documents", "equal", "high"),
    [
        (0.9, 0.65, 100, 70, 1.0),  # thirty changed answers can do that
        (0.5, 0.5, 100, 100, 1.0),
        (0.505, 0.5, 100, 100, 1.0),  # a judge's moods
        (1.0, 0.0, 100, 0, 1.0),
        (1.0, 0.0, 5, 5, 1.0),  # too few to tell
        (4.0, 3.0, 100, 60, None),
    ],
)
def test_a_score_that_its_answers_explain(
    score: float, before: float, documents: int, equal: int, high: float | None
) -> None:
    assert score_moved(score, before, OutputComparison(documents, equal, 0), high=high) is None
