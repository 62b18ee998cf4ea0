"""Log-likelihoods as they are read out of stored responses."""

from __future__ import annotations

import pytest

from plugin_ui.pages.option_scores import OptionScore, expected_option, option_scores


def test_options_are_numbered_and_the_largest_is_marked() -> None:
    responses = ['["-27.88", "False"]', '["-3.5", "True"]', "[-40, false]"]
    assert option_scores(responses) == [
        OptionScore(1, -27.88, greedy=False, largest=False),
        OptionScore(2, -3.5, greedy=True, largest=True),
        OptionScore(3, -40.0, greedy=False, largest=False),
    ]


def test_of_a_tie_both_are_the_largest_and_one_alone_is_not_compared() -> None:
    tied = option_scores(["[-1, false]", "[-1.0, true]", "[-2, false]"])
    assert [option.largest for option in tied] == [True, True, False]
    (alone,) = option_scores(["[-1, true]"])
    assert alone.greedy and not alone.largest


@pytest.mark.parametrize(
    "other",
    [
        "",
        "Paris",
        "-3.5",
        "null",
        "[]",
        "[-3.5]",
        "[-3.5, null]",
        "[-3.5, 1]",
        '[-3.5, "perhaps"]',
        "[NaN, false]",
        "[true, false]",
        '["x", "True"]',
        '{"0": -3.5, "1": false}',
        "[-3.5, [false]]",
        "[" * 100_000,
        "[1" + "0" * 400 + ", false]",
    ],
)
def test_anything_else_is_shown_as_it_is(other: str) -> None:
    assert option_scores(["[-1, false]", other]) == []


def test_no_responses_are_no_options() -> None:
    assert option_scores([]) == []


@pytest.mark.parametrize(
    ("target", "options", "number"),
    [("2", 4, 3), ("0", 2, 1), ("4", 4, None), ("B", 4, None), ("-1", 4, None), ("", 4, None), ("0", 1, None)],
)
def test_a_target_that_is_a_number_counts_from_0(target: str, options: int, number: int | None) -> None:
    assert expected_option(target, options) == number
