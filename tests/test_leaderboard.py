"""The leaderboard: what is ranked, what ties, what must not be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner_files import FINGERPRINT, doc_hash

from mlflow_lmms.board import Board, make_board
from mlflow_lmms.column_ranks import column_ranks
from mlflow_lmms.score import Score, compare, incomparable
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector

#: Scores per document of a model on a task.
Outputs = dict[tuple[str, str], Sequence[float]]


def score(model: str, task: str = "t", value: float = 0.5, **fields: Any) -> Score:
    made = Score(
        run_id=f"run of {model}",
        experiment_id="1",
        model=model,
        suite="s",
        task=task,
        metric="acc",
        filter="none",
        value=value,
        low=None,
        high=None,
        n=100,
        higher_is_better=True,
        partial=False,
        attempt=1,
        fingerprint=FINGERPRINT,
        recorded_at=1.0,
    )
    return replace(made, **fields)


def vectors(outputs: Outputs) -> Any:
    """What a run reader gives: the scores per document of a result."""

    def of(given_score: Score) -> ScoreVector | None:
        values = outputs.get((given_score.model, given_score.task))
        if values is None:
            return None
        pairs = sorted((doc_hash(number), value) for number, value in enumerate(values))
        keys = DocumentKeys(np.array([key.encode() for key, _ in pairs], dtype=np.bytes_), None)
        return ScoreVector(np.array([value for _, value in pairs], dtype=float), lambda: keys)

    return of


def right(count: int, of: int = 100) -> list[float]:
    """The first `count` documents right."""
    return [1.0] * count + [0.0] * (of - count)


def board_of(outputs: Outputs, **options: Any) -> Board:
    scores = [score(model, task, float(np.mean(values))) for (model, task), values in outputs.items()]
    return make_board(scores, vectors(outputs), **options)


def ranks(board: Board, task: str = "t") -> dict[str, int | None]:
    return {row.model: row.cells[task].rank for row in board.rows if task in row.cells}


def no_vectors(_: Score) -> ScoreVector | None:
    return None


def apart(first: Score, second: Score, of: Any) -> bool:
    """Whether two results get different ranks."""
    return len({rank.rank for rank in column_ranks([first, second], of, higher_is_better=True).values()}) == 2


def test_models_that_really_differ_are_ranked_and_others_tie() -> None:
    board = board_of({("a", "t"): right(90), ("b", "t"): right(88), ("c", "t"): right(50)})
    assert ranks(board) == {"a": 1, "b": 1, "c": 3}
    cells = {row.model: row.cells["t"] for row in board.rows}
    assert (cells["a"].tied, cells["b"].tied, cells["c"].tied) == (True, True, False)
    assert [row.model for row in board.rows] == ["a", "b", "c"]


def test_the_smallest_is_best_where_lower_is_better() -> None:
    scores = [score("a", value=0.9, higher_is_better=False), score("b", value=0.1, higher_is_better=False)]
    outputs: Outputs = {("a", "t"): right(90), ("b", "t"): right(10)}
    assert ranks(make_board(scores, vectors(outputs))) == {"b": 1, "a": 2}


def test_pairing_finds_what_intervals_alone_would_not() -> None:
    random = np.random.default_rng(1)
    base = (random.random(300) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:12]] = 1.0  # right on twelve more, wrong on none more
    one = score("a", value=float(base.mean()), low=0.44, high=0.56)
    two = score("b", value=float(better.mean()), low=0.48, high=0.60)
    assert apart(one, two, vectors({("a", "t"): base.tolist(), ("b", "t"): better.tolist()}))
    assert not apart(one, two, no_vectors)


@pytest.mark.parametrize(
    ("one", "two", "differ"),
    [((0.1, 0.2), (0.3, 0.4), True), ((0.3, 0.4), (0.1, 0.2), True), ((0.1, 0.3), (0.2, 0.4), False)],
)
def test_without_samples_intervals_decide(one: tuple[float, float], two: tuple[float, float], differ: bool) -> None:
    first = score("a", value=sum(one) / 2, low=one[0], high=one[1])
    second = score("b", value=sum(two) / 2, low=two[0], high=two[1])
    assert apart(first, second, no_vectors) == differ


def test_without_samples_and_intervals_the_values_decide() -> None:
    assert apart(score("a", value=0.1), score("b", value=0.2), no_vectors)
    assert not apart(score("a", value=0.1), score("b", value=0.1), no_vectors)


def test_samples_of_other_documents_say_nothing() -> None:
    def of(given_score: Score) -> ScoreVector:
        keys = DocumentKeys(np.array([f"{given_score.model}{n}".encode() for n in range(50)], dtype=np.bytes_), None)
        return ScoreVector(np.array([float(given_score.model == "a")] * 50), lambda: keys)

    assert not apart(score("a", low=0.1, high=0.9), score("b", low=0.1, high=0.9), of)


def test_the_latest_result_of_a_model_counts() -> None:
    old, new = score("a", value=0.1, recorded_at=1.0), score("a", value=0.9, recorded_at=2.0)
    for scores in ([old, new], [new, old]):
        (row,) = make_board(scores, no_vectors).rows
        assert row.cells["t"].score.value == 0.9


def test_results_over_a_part_of_the_documents_are_left_out_unless_asked_for() -> None:
    scores = [score("a"), score("b", partial=True), score("c", partial=True)]
    board = make_board(scores, no_vectors)
    assert [row.model for row in board.rows] == ["a"]
    assert board.left_out == ("2 results over a part of a task's documents",)
    board = make_board(scores, no_vectors, partial=True)
    assert {row.model for row in board.rows} == {"a", "b", "c"}
    assert board.left_out == ()


def test_a_quick_look_does_not_take_the_place_of_a_whole_result() -> None:
    whole = score("a", value=0.9, recorded_at=1.0)
    look = score("a", value=0.1, recorded_at=2.0, partial=True)
    (row,) = make_board([whole, look], no_vectors, partial=True).rows
    assert row.cells["t"].score.value == 0.9


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dataset", "other", "the documents differ"),
        ("task_config", "other", "prompts or settings differ"),
        ("generation", "other", "generation settings differ"),
        ("num_fewshot", 5, "examples in the prompt differs"),
        ("lmms_eval", "0.8", "version of lmms-eval differs"),
    ],
)
def test_results_that_are_not_comparable_are_shown_but_not_ranked(key: str, value: Any, words: str) -> None:
    odd = score("c", value=0.99, fingerprint={**FINGERPRINT, key: value}, recorded_at=9.0)
    board = make_board([score("a", value=0.5), score("b", value=0.4), odd], no_vectors)
    cells = {row.model: row.cells["t"] for row in board.rows}
    assert cells["c"].rank is None
    assert words in str(cells["c"].note)
    assert (cells["a"].rank, cells["b"].rank, cells["a"].note) == (1, 2, None)
    assert next(row for row in board.rows if row.model == "c").win_rate is None


def test_another_metric_is_not_comparable() -> None:
    assert incomparable(score("a"), score("b", metric="f1")) == "scored by f1 (none), the others by acc (none)"
    assert incomparable(score("a"), score("b")) is None


def test_of_two_kinds_the_commoner_and_then_the_newer_is_the_measure() -> None:
    other = {**FINGERPRINT, "lmms_eval": "0.8"}
    scores = [score("a"), score("b"), score("c", fingerprint=other, recorded_at=9.0)]
    assert ranks(make_board(scores, no_vectors))["c"] is None
    assert ranks(make_board(scores[1:], no_vectors)) == {"b": None, "c": 1}


def test_a_metric_without_direction_is_shown_and_not_ranked() -> None:
    board = make_board([score("a", higher_is_better=None), score("b", higher_is_better=None)], no_vectors)
    assert ranks(board) == {"a": None, "b": None}
    scores = [
        score("a", value=0.9),
        score("b", value=0.1),
        score("c", value=0.5, higher_is_better=None, recorded_at=5.0),
    ]
    assert ranks(make_board(scores, no_vectors)) == {"a": 1, "b": 2, "c": None}


def test_the_overall_rank_is_the_mean_share_of_models_beaten() -> None:
    outputs: Outputs = {
        ("a", "t"): right(90), ("b", "t"): right(50), ("c", "t"): right(10),
        ("a", "u"): right(50), ("b", "u"): right(51), ("c", "u"): right(10),
    }  # fmt: skip
    board = board_of(outputs)
    assert {row.model: row.win_rate for row in board.rows} == {"a": (1 + 0.75) / 2, "b": (0.5 + 0.75) / 2, "c": 0.0}
    assert [(row.model, row.rank) for row in board.rows] == [("a", 1), ("b", 2), ("c", 3)]
    assert [column.task for column in board.columns] == ["t", "u"]


def test_a_missing_score_is_not_the_worst_score() -> None:
    outputs: Outputs = {("a", "t"): right(90), ("b", "t"): right(10), ("a", "u"): right(20), ("c", "u"): right(80)}
    board = board_of(outputs)
    rows = {row.model: row for row in board.rows}
    assert (rows["c"].win_rate, rows["c"].coverage) == (1.0, 1)
    assert (rows["a"].win_rate, rows["a"].coverage) == (0.5, 2)
    assert rows["b"].win_rate == 0.0


def test_a_model_alone_is_compared_with_nobody() -> None:
    board = board_of({("a", "t"): right(50)})
    (row,) = board.rows
    assert (row.win_rate, row.rank, row.cells["t"].rank) == (None, None, 1)


def test_models_with_the_same_win_rate_share_a_place() -> None:
    board = board_of({("a", "t"): right(50), ("b", "t"): right(50), ("c", "t"): right(5)})
    assert [(row.model, row.rank) for row in board.rows] == [("a", 1), ("b", 1), ("c", 3)]


def test_a_board_of_nothing_is_empty() -> None:
    assert make_board([], no_vectors) == Board()


def test_a_comparison_says_second_minus_first() -> None:
    outputs: Outputs = {("a", "t"): right(50), ("b", "t"): right(70)}
    found = compare(score("a"), score("b"), vectors(outputs))
    assert found is not None
    assert found.difference == pytest.approx(0.2)
    assert compare(score("a"), score("nobody"), vectors(outputs)) is None


def test_equal_scores_are_ordered_the_same_whichever_came_first() -> None:
    outputs: Outputs = {("a", "t"): right(60), ("b", "t"): right(60)[::-1], ("c", "t"): right(50)}
    scores = [score(model, task, float(np.mean(values))) for (model, task), values in outputs.items()]
    assert ranks(make_board(scores, vectors(outputs))) == ranks(make_board(scores[::-1], vectors(outputs)))


MODELS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 30), min_size=1)


@settings(max_examples=40)
@given(MODELS, MODELS)
def test_a_board_does_not_depend_on_the_order_of_the_results(first: dict[str, int], second: dict[str, int]) -> None:
    outputs: Outputs = {(model, "t"): right(count, 30) for model, count in first.items()}
    outputs |= {(model, "u"): right(count, 30) for model, count in second.items()}
    scores = [score(model, task, float(np.mean(values))) for (model, task), values in outputs.items()]
    board = make_board(scores, vectors(outputs))
    again = make_board(scores[::-1], vectors(outputs))
    assert board.columns == again.columns
    assert {row.model: row.win_rate for row in board.rows} == {row.model: row.win_rate for row in again.rows}
    for task, counts in (("t", first), ("u", second)):
        found = ranks(board, task)
        assert set(found) == set(counts)
        assert min(rank for rank in found.values() if rank) == 1
        for one in counts:
            for two in counts:
                if counts[one] > counts[two]:
                    assert (found[one] or 0) <= (found[two] or 0)
    rates = [row.win_rate for row in board.rows if row.win_rate is not None]
    assert rates == sorted(rates, reverse=True)
    assert all(0 <= rate <= 1 for rate in rates)


def test_a_result_with_a_warning_against_it_is_shown_and_not_ranked_unless_asked_for() -> None:
    scores = [score("a", value=0.9, warnings=("below_chance", "constant_target")), score("b", value=0.5)]
    board = make_board(scores, no_vectors)
    cells = {row.model: row.cells["t"] for row in board.rows}
    assert (cells["a"].rank, cells["a"].flagged, cells["b"].rank) == (None, ("below_chance",), 1)
    asked = make_board(scores, no_vectors, flagged=True)
    assert ranks(asked) == {"a": 1, "b": 2}
    assert next(row for row in asked.rows if row.model == "a").cells["t"].flagged == ("below_chance",)


def test_that_a_result_is_partial_is_asked_for_by_itself() -> None:
    partial = score("a", partial=True, warnings=("partial_run",))
    assert ranks(make_board([partial], no_vectors, partial=True)) == {"a": 1}


@pytest.mark.parametrize("name", ["constant_target", "unknown_scale", "primary_not_found", "samples_missing"])
def test_warnings_that_leave_the_number_sound_keep_nothing_from_being_ranked(name: str) -> None:
    assert ranks(make_board([score("a", warnings=(name,))], no_vectors)) == {"a": 1}


def test_a_warning_of_a_later_version_is_taken_seriously() -> None:
    assert ranks(make_board([score("a", warnings=("something_new",))], no_vectors)) == {"a": None}


def published(model: str, value: float, source: str = "a paper", **fields: Any) -> Score:
    return score(model, value=value, source="reported", reported_source=source, fingerprint={}, n=None, **fields)


def test_published_scores_stand_beside_ours_and_take_part_in_nothing() -> None:
    ours = [score("a", value=0.6), score("b", value=0.4)]
    theirs = [published("a", 0.99), published("a", 0.8, "a blog"), published("c", 0.1), published("c", 0.7, task="u")]
    board, alone = make_board(ours + theirs, no_vectors), make_board(ours, no_vectors)
    rows = {row.model: row for row in board.rows}
    assert ranks(board) == ranks(alone) == {"a": 1, "b": 2}
    assert [(row.model, row.win_rate, row.rank) for row in board.rows[:2]] == [
        (row.model, row.win_rate, row.rank) for row in alone.rows
    ]
    assert [found.value for found in rows["a"].reported["t"]] == [0.8, 0.99]
    assert (rows["c"].cells, rows["c"].rank, rows["c"].coverage) == ({}, None, 0)
    assert [column.task for column in board.columns] == ["t", "u"]
    assert compare(ours[0], theirs[0], no_vectors) is None


def test_of_one_source_the_newest_number_counts() -> None:
    scores = [published("a", 0.5, recorded_at=2.0), published("a", 0.4, recorded_at=1.0)]
    (row,) = make_board(scores, no_vectors).rows
    assert [found.value for found in row.reported["t"]] == [0.5]


def test_the_difference_of_a_percent_metric_is_in_percent() -> None:
    outputs: Outputs = {("a", "t"): right(50), ("b", "t"): right(70)}
    of = vectors(outputs)
    plain = compare(score("a"), score("b"), of)
    percent = compare(score("a", value=50, factor=100), score("b", value=70, factor=100), of)
    assert plain is not None and percent is not None
    assert percent.difference == pytest.approx(20)
    assert (percent.low, percent.high) == pytest.approx((plain.low * 100, plain.high * 100))
    assert (percent.p_value, percent.wins) == (plain.p_value, plain.wins)


def test_percentages_and_fractions_are_not_ranked_together() -> None:
    scores = [score("a", value=50, factor=100), score("b", value=70, factor=100), score("c", value=0.9, factor=1)]
    cells = {row.model: row.cells["t"] for row in make_board(scores, no_vectors).rows}
    assert cells["c"].rank is None and cells["a"].rank == 2
    assert cells["c"].note == "not comparable: its scores are fractions, the others percentages"


def test_a_result_of_which_too_little_is_known_is_not_ranked_and_says_so() -> None:
    unknown = {key: value for key, value in FINGERPRINT.items() if key != "generation"}
    scores = [score("a"), score("b"), score("c", fingerprint=unknown)]
    cells = {row.model: row.cells["t"] for row in make_board(scores, no_vectors).rows}
    assert cells["c"].rank is None
    assert str(cells["c"].note).startswith("whether it is comparable cannot be told: one of the two results")


def test_a_result_alone_of_which_the_documents_are_unknown_speaks_of_itself() -> None:
    unknown = {key: value for key, value in FINGERPRINT.items() if key not in ("dataset", "rows")}
    scores = [score("a", fingerprint=unknown), score("b", task="other", fingerprint=unknown)]
    cells = {row.model: row.cells for row in make_board(scores, no_vectors).rows}
    assert cells["a"]["t"].rank is None
    assert cells["a"]["t"].note == "it does not tell which documents it is over: nothing can be compared with it"
    (first, second) = (
        row.cells["t"].note for row in make_board([scores[0], score("c", fingerprint=unknown)], no_vectors).rows
    )
    assert {first, second} >= {
        "whether it is comparable cannot be told: neither result tells which documents it is over"
    }


def test_an_import_whose_rows_agree_is_ranked_with_live_results() -> None:
    live = {**FINGERPRINT, "rows": "r" * 64, "judge": None}
    imported = live | {"dataset": None, "origin": "lmms-eval files"}
    board = make_board([score("a", fingerprint=live), score("b", value=0.4, fingerprint=imported)], no_vectors)
    assert ranks(board) == {"a": 1, "b": 2}
