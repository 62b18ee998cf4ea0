"""Runs against a baseline: what is tested, corrected, said, and left unsaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runner_files import FINGERPRINT

from mlflow_lmms.analysis.holm import holm
from mlflow_lmms.comparison import Comparison, TaskDifference, Verdict, compare_with_baseline
from mlflow_lmms.score import Score
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector

Outputs = Mapping[tuple[str, str], Sequence[float]]


def score(run_id: str, task: str, value: float, **fields: Any) -> Score:
    made = Score(
        run_id=run_id, experiment_id="1", model=f"model of {run_id}", suite="s", task=task, metric="acc",
        filter="none", value=value, low=None, high=None, n=100, higher_is_better=True, partial=False, attempt=1,
        fingerprint=FINGERPRINT, recorded_at=1.0, factor=1.0,
    )  # fmt: skip
    return replace(made, **fields)


def compared(outputs: Outputs, changes: Mapping[tuple[str, str], Mapping[str, Any]] | None = None) -> Comparison:
    scores = [
        score(run, task, float(np.mean(values)), **(changes or {}).get((run, task), {}))
        for (run, task), values in outputs.items()
    ]
    keys = DocumentKeys(np.array([f"{n:04d}".encode() for n in range(1000)], dtype=np.bytes_), None)

    def vectors(wanted: Score) -> ScoreVector | None:
        values = outputs[wanted.run_id, wanted.task]
        if not values:
            return None
        known = DocumentKeys(keys.content[: len(values)] if keys.content is not None else None, None)
        return ScoreVector(np.array(values, dtype=float), lambda: known)

    return compare_with_baseline(list(dict.fromkeys(run for run, _ in outputs)), scores, vectors)


def right(first: int, last: int, of: int = 200) -> list[float]:
    """The documents from `first` to `last` right."""
    return [float(first <= number < last) for number in range(of)]


def only(found: Comparison, run: str = "b") -> TaskDifference:
    return found.tasks[0].candidates[run]


def test_a_better_candidate_is_called_better_with_its_counts() -> None:
    found = only(compared({("a", "t"): right(0, 100), ("b", "t"): right(10, 150)}))
    assert found.verdict is Verdict.BETTER
    assert (found.wins, found.losses, found.ties, found.n) == (50, 10, 140, 200)
    assert found.difference == found.gain == pytest.approx(0.2)
    assert found.low is not None
    assert found.high is not None
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.adjusted == found.p_value


def test_where_lower_is_better_the_gain_and_the_wins_are_turned() -> None:
    lower = {("a", "t"): {"higher_is_better": False}, ("b", "t"): {"higher_is_better": False}}
    found = only(compared({("a", "t"): right(0, 100), ("b", "t"): right(10, 150)}, lower))
    assert found.verdict is Verdict.WORSE
    assert (found.wins, found.losses) == (10, 50)
    assert found.difference == pytest.approx(0.2)
    assert found.gain == pytest.approx(-0.2)


def test_a_metric_without_direction_is_only_called_different() -> None:
    unknown = {("a", "t"): {"higher_is_better": None}}
    found = only(compared({("a", "t"): right(0, 100), ("b", "t"): right(10, 150)}, unknown))
    assert (found.verdict, found.gain) == (Verdict.DIFFERENT, None)


def test_percentages_are_told_as_percentages() -> None:
    percent = {(run, "t"): {"factor": 100.0} for run in "ab"}
    found = only(compared({("a", "t"): right(0, 100), ("b", "t"): right(10, 150)}, percent))
    assert found.difference == pytest.approx(20)
    assert found.detectable is not None
    assert 5 < found.detectable < 15


def test_what_is_not_settled_says_how_many_documents_would_settle_it() -> None:
    found = only(compared({("a", "t"): right(0, 100), ("b", "t"): right(2, 104)}))
    assert found.verdict is Verdict.UNDECIDED
    assert found.needed is not None
    assert found.needed > 1000
    equal = only(compared({("a", "t"): right(0, 100), ("b", "t"): right(0, 100)}))
    assert (equal.verdict, equal.needed, equal.p_value) == (Verdict.UNDECIDED, None, 1.0)


def test_holm_counts_every_test_that_is_shown() -> None:
    outputs: dict[tuple[str, str], list[float]] = {}
    for number in range(5):
        outputs["a", f"t{number}"] = right(0, 100)
        outputs["b", f"t{number}"] = right(0, 100 + 3 * number)
        outputs["c", f"t{number}"] = right(0, 112 - number)
    found = compared(outputs)
    tests = [difference for task in found.tasks for difference in task.candidates.values()]
    assert len(tests) == 10
    assert [test.adjusted for test in tests] == pytest.approx(holm([test.p_value or 0.0 for test in tests]))
    alone = compared({key: values for key, values in outputs.items() if key[0] != "c"})
    for task, lone in zip(found.tasks, alone.tasks, strict=True):
        assert (task.candidates["b"].adjusted or 0) >= (lone.candidates["b"].adjusted or 0)
    assert found.counts("b")[Verdict.UNDECIDED] >= 1
    assert found.counts("b")[Verdict.BETTER] >= 1


def test_missing_incomparable_and_unpaired_results_have_a_place_of_their_own() -> None:
    other = {("c", "t"): {"fingerprint": FINGERPRINT | {"task_config": "another"}}}
    outputs = {
        ("a", "t"): right(0, 100),
        ("b", "extra"): right(0, 9),
        ("c", "t"): right(0, 150),
        ("d", "t"): [0.5][:0],
    }
    found = compare_with_baseline(
        ["a", "b", "c", "d"],
        [score(run, task, 0.5, **other.get((run, task), {})) for run, task in outputs],
        lambda wanted: None,
    )
    task = found.tasks[0]
    assert task.candidates["b"].verdict is Verdict.MISSING
    assert task.candidates["c"].verdict is Verdict.NOT_COMPARABLE
    assert "prompts" in (task.candidates["c"].reason or "")
    assert task.candidates["d"].verdict is Verdict.UNPAIRED
    assert task.candidates["d"].difference == 0.0
    assert found.only == {"b": ("extra",), "c": (), "d": ()}
    assert all(difference.p_value is None for difference in task.candidates.values())
    assert found.as_json()["counts"]["c"] == {"not comparable": 1}


def test_a_verdict_over_results_that_warnings_speak_against_names_them() -> None:
    outputs = {("a", "t"): right(0, 100), ("b", "t"): right(0, 150), ("c", "t"): right(0, 150)}
    doubts = {
        ("a", "t"): {"warnings": ("identical_responses", "samples_missing")},
        ("b", "t"): {"warnings": ("score_moved", "identical_responses")},
    }
    found = compared(outputs, doubts)
    assert only(found).verdict is Verdict.BETTER
    assert only(found).flagged == ("identical_responses", "score_moved")
    assert only(found, "c").flagged == ("identical_responses",)
    assert only(compared(outputs)).flagged == ()


def test_equal_models_are_told_apart_on_any_task_in_no_more_than_one_comparison_of_twenty() -> None:
    """The familywise error over eight tasks, which Holm's correction bounds."""
    random = np.random.default_rng(1)
    called = 0
    for _ in range(200):
        outputs = {
            (run, f"t{task}"): (random.random(80) < 0.6).astype(float).tolist() for run in "ab" for task in range(8)
        }
        found = compared(outputs)
        called += any(task.candidates["b"].verdict is not Verdict.UNDECIDED for task in found.tasks)
    assert called <= 0.08 * 200
