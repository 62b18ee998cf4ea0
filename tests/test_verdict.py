"""Sentences about a board: who beats whom on what, and where it cannot be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from runner_files import FINGERPRINT, doc_hash

from mlflow_lmms.board import make_board
from mlflow_lmms.score import Score
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector
from mlflow_lmms.verdict import verdicts


def say(right: dict[str, dict[str, int]], *, higher_is_better: bool = True, **fields: Any) -> list[str]:
    """The sentences over models that are right on the first so many of 100 documents: task → model → count."""
    scores = [
        Score(
            run_id=model, experiment_id="1", model=model, suite="s", task=task, metric="acc", filter="none",
            value=count / 100, low=None, high=None, n=100, higher_is_better=higher_is_better, partial=False,
            attempt=1, fingerprint=FINGERPRINT | fields.get(model, {}), recorded_at=1.0,
        )
        for task, counts in right.items()
        for model, count in counts.items()
    ]  # fmt: skip

    def vectors(score: Score) -> ScoreVector | None:
        if score.model == "unsampled":
            return None
        count = right[score.task][score.model]
        pairs = sorted((doc_hash(number), float(number < count)) for number in range(100))
        keys = DocumentKeys(np.array([key.encode() for key, _ in pairs], dtype=np.bytes_), None)
        return ScoreVector(np.array([value for _, value in pairs]), lambda: keys)

    return verdicts(make_board(scores, vectors), vectors)


def test_the_demos_story_is_told() -> None:
    right = {
        "parity": {"k-NN": 80, "centroid": 79},
        "robust": {"k-NN": 90, "centroid": 60},
        "sum": {"k-NN": 70, "centroid": 40},
        "vqa": {"k-NN": 97, "centroid": 80},
    }
    assert say(right) == ["k-NN beats centroid on 3 of 4 tasks; they tie on parity"]


@pytest.mark.parametrize(
    ("right", "sentence"),
    [
        ({"t": {"a": 90, "b": 50}}, "a beats b on 1 of 1 task"),
        ({"t": {"a": 50, "b": 51}}, "a and b tie on t"),
        ({"t": {"a": 50, "b": 51}, "u": {"a": 60, "b": 60}}, "a and b tie on all tasks"),
        (
            {"t": {"a": 90, "b": 50}, "u": {"a": 90, "b": 50}, "v": {"a": 10, "b": 70}},
            "a beats b on 2 of 3 tasks; b beats a on v",
        ),
        (
            {"t": {"a": 90, "b": 50}, "u": {"a": 50, "b": 50}, "v": {"a": 50, "b": 51}},
            "a beats b on 1 of 3 tasks; they tie on u, v",
        ),
        (
            {"t": {"a": 90, "b": 50}, "u": {"a": 90, "b": 50}, "v": {"a": 5, "b": 50}, "w": {"a": 5, "b": 5}},
            "a beats b on 2 of 4 tasks; b beats a on v; they tie on w",
        ),
    ],
)
def test_wins_losses_and_ties_are_named(right: dict[str, dict[str, int]], sentence: str) -> None:
    assert say(right) == [sentence]


def test_each_pair_has_a_sentence_the_higher_placed_first() -> None:
    assert say({"t": {"c": 10, "a": 90, "b": 50}}) == [
        "a beats b on 1 of 1 task",
        "a beats c on 1 of 1 task",
        "b beats c on 1 of 1 task",
    ]


def test_the_smaller_score_wins_where_lower_is_better() -> None:
    assert say({"t": {"a": 90, "b": 10}}, higher_is_better=False) == ["b beats a on 1 of 1 task"]


def test_many_tasks_ask_for_more_evidence_than_one() -> None:
    """Six documents of difference: p = 0.031 alone, over 0.05 after Holm over two tasks."""
    assert say({"t": {"a": 56, "b": 50}}) == ["a beats b on 1 of 1 task"]
    both = {"t": {"a": 56, "b": 50}, "u": {"a": 50, "b": 50}}
    assert say(both) == ["a and b tie on all tasks"]


def test_nothing_is_said_where_nothing_can_be_compared() -> None:
    assert say({}) == []
    assert say({"t": {"a": 50}}) == []
    assert say({"t": {"a": 50}, "u": {"b": 50}}) == []
    assert say({"t": {"a": 90, "unsampled": 10}}) == []
    assert say({"t": {"a": 90, "b": 10}}, b={"dataset": "other"}) == []


def test_only_the_tasks_of_both_count() -> None:
    right = {"t": {"a": 90, "b": 50}, "u": {"a": 90}, "v": {"b": 90}}
    assert say(right) == ["a beats b on 1 of 1 task"]
