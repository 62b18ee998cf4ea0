"""Which results may be compared, and what is said when they may not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.comparability import Verdict, compare_fingerprints

FULL: dict[str, Any] = {
    "dataset": "d" * 64,
    "rows": "r" * 64,
    "task_config": "c" * 64,
    "generation": "g" * 64,
    "num_fewshot": None,
    "limit": None,
    "offset": 0,
    "filter": "none",
    "judge": None,
    "lmms_eval": "0.7.3",
    "origin": "run",
}
OLD = {key: value for key, value in FULL.items() if key not in ("rows", "filter", "judge", "origin")}


def compared(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    found = compare_fingerprints(first, second)
    assert found.comparable == (found.verdict is Verdict.COMPARABLE)
    return found.verdict, found.reasons


def without(*parts: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in FULL.items() if key not in parts} | changes


@pytest.mark.parametrize("one", [FULL, OLD])
@pytest.mark.parametrize("two", [FULL, OLD])
def test_the_same_thing_is_comparable_also_with_results_of_older_versions(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert compared(one, two) == ("comparable", ())


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("dataset", "e" * 64, "the documents differ"),
        ("task_config", "x" * 64, "the task's prompts or settings differ"),
        ("generation", "x" * 64, "the generation settings differ"),
        ("num_fewshot", 5, "the number of examples in the prompt differs (none and 5)"),
        ("filter", "strict-match", "the filter of the answers differs (none and strict-match)"),
        ("lmms_eval", "0.6.1", "the version of lmms-eval differs (0.7.3 and 0.6.1)"),
        ("judge", {"model": "gpt-4o"}, "the judges differ (none and model gpt-4o)"),
    ],
)
def test_each_part_that_differs_is_named(part: str, value: Any, words: str) -> None:
    assert compared(FULL, FULL | {part: value}) == ("not comparable", (words,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": 20}, "the documents differ: one result is over all documents, the other over 20 documents"),
        ({"offset": 5}, "the documents differ: one result is over all documents, the other over all documents from "
         "number 5 on"),
    ],
)  # fmt: skip
def test_documents_that_were_left_out_are_told(changes: dict[str, Any], words: str) -> None:
    assert compared(FULL, FULL | changes | {"dataset": "e"}) == ("not comparable", (words,))


def test_the_same_documents_by_content_are_the_same_however_they_were_cut() -> None:
    assert compared(FULL, FULL | {"limit": 100}) == ("comparable", ())


def test_where_one_side_has_no_documents_the_rows_decide() -> None:
    imported = without(dataset=None, origin="lmms-eval files")
    assert compared(FULL, imported) == ("comparable", ())
    verdict, reasons = compared(FULL, imported | {"rows": "x"})
    assert (verdict, reasons) == ("not comparable", ("the documents differ",))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (without("rows", dataset=None), "do not tell in the same way which documents"),
        (without("task_config"), "does not tell the task's prompts or settings"),
        (without(generation=None), "does not tell the generation settings"),
        (without("num_fewshot"), "does not tell the number of examples"),
        (without("lmms_eval"), "does not tell the version of lmms-eval"),
    ],
)
def test_what_only_one_side_knows_leaves_the_question_open(second: dict[str, Any], words: str) -> None:
    verdict, (reason,) = compared(FULL, second)
    assert verdict == "cannot be told" and words in reason


def test_a_judge_that_only_one_side_tells_of_leaves_the_question_open() -> None:
    assert compared(FULL | {"judge": "gpt-4o"}, without("judge"))[0] == "cannot be told"


def test_results_that_tell_of_no_documents_are_never_called_comparable() -> None:
    assert compared({}, {}) == ("cannot be told", ("neither result tells which documents it is over",))


def test_a_difference_outweighs_what_is_not_known_and_both_are_said() -> None:
    verdict, reasons = compared(FULL, without("task_config", lmms_eval="0.6.1"))
    assert verdict == "not comparable"
    assert [("differs" in reason, "does not tell" in reason) for reason in reasons] == [(True, False), (False, True)]


values = st.sampled_from([None, "a", "b", 0, 5, {"model": "m"}])


@given(
    first=st.dictionaries(st.sampled_from(sorted(FULL)), values),
    second=st.dictionaries(st.sampled_from(sorted(FULL)), values),
)
def test_the_verdict_does_not_depend_on_the_order(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, two = compare_fingerprints(first, second), compare_fingerprints(second, first)
    assert one.verdict == two.verdict and len(one.reasons) == len(two.reasons)
    assert one.comparable == (not one.reasons)
