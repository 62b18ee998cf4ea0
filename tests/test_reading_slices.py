"""Which columns become dimensions, and their groups' sums, whole columns at once and row by row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.reading.sample_scores import SampleScoreReader
from mlflow_lmms.reading.slice_sums import SliceReader
from mlflow_lmms.reading.slices import (
    dimension_value,
    dimensions,
    length_bin,
    length_groups,
    may_be_dimension,
    scoring_columns,
    slice_scores,
)


def test_useful_dimensions() -> None:
    columns: dict[str, list[Any]] = {
        "category": ["a", "b"] * 20,
        "level": [1, 2, 3, 4] * 10,
        "id": list(range(40)),
        "constant": ["x"] * 40,
        "answer": ["yes", "no"] * 20,
        "pred": ["yes", "no"] * 20,
        "rare": ["a"] * 20 + [None] * 18 + ["b", "c"],
        "partly": ["a"] * 10 + ["b"] * 10 + [""] * 20,
    }
    kept = dimensions(columns)
    assert list(kept) == ["category", "level", "partly"]
    assert kept["partly"][-1] is None
    assert list(dimensions({"id": columns["id"], "rare": columns["rare"]}, "declared")) == ["id", "rare"]


@pytest.mark.parametrize(
    ("name", "source", "kept"),
    [
        ("task", "scoring", True),
        ("question_type", "scoring", True),
        ("score", "scoring", False),
        ("score", "document", True),
        ("parsed_pred", "scoring", False),
        ("model_answer", "scoring", False),
        ("gpt_review", "scoring", False),
        ("judge_model", "scoring", False),
        ("ground_truth", "document", False),
        ("predicate", "document", True),
        ("answer", "declared", True),  # somebody knows better
    ],
)
def test_names_that_speak_against_a_column(name: str, source: Any, kept: bool) -> None:
    assert may_be_dimension(name, source) is kept


def test_values() -> None:
    assert dimension_value(True) == "True"
    assert dimension_value(0) == "0"
    assert dimension_value("") is None
    assert dimension_value("häuser \ud800") == "häuser ?"
    assert dimension_value(["a"]) is None
    assert dimension_value("x" * 201) is None


def test_scoring_columns_of_the_first_metric_win() -> None:
    values = [{"overall": 1.0, "task": "sound"}, 0.5, {"task": "other", "difficulty": "easy", "choices": ["a"]}]
    assert scoring_columns(values) == {"overall": 1.0, "task": "sound", "difficulty": "easy"}


def test_slice_scores() -> None:
    assert slice_scores(["a", "b", "a", "a", None], [1.0, 0.0, None, 0.0, 1.0]) == [
        {"value": "a", "n": 2, "score": 0.5, "sd": pytest.approx(0.5**0.5)},
        {"value": "b", "n": 1, "score": 0.0, "sd": None},
    ]


@given(st.lists(st.integers(0, 100_000), min_size=1))
def test_length_groups_are_ranges_that_hold_their_members(lengths: list[int]) -> None:
    groups = length_groups(lengths)
    assert len(set(groups)) <= 4
    for length, group in zip(lengths, groups, strict=True):
        if group is None:
            assert len({length_bin(length) for length in lengths}) == 1
        else:
            least, _, most = group.partition("–")
            assert int(least) <= length <= int(most or least)


def test_length_bins_are_few_and_narrow() -> None:
    assert len({length_bin(length) for length in range(1_000_000)}) < 600
    assert all(length - length_bin(length) <= length / 32 for length in range(0, 1_000_000, 997))


_ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.booleans(), st.fixed_dictionaries({"score": st.integers(0, 5)})),
        st.sampled_from(["a", "b", "c", "", None]),
        st.integers(0, 60),
        st.integers(0, 3000),
    ),
    max_size=150,
)


@given(_ROWS)
def test_row_by_row_is_what_whole_columns_are(rows: list[tuple[Any, Any, int, int]]) -> None:
    reader, slicer = SampleScoreReader(), SliceReader()
    for value, kind, number, length in rows:
        numbers = reader.add(value)
        document = {"kind": kind, "number": number}
        slicer.add(numbers, document=document, features={"prompt_length": length})
    columns = dimensions({"kind": [row[1] for row in rows], "number": [row[2] for row in rows]})
    columns |= dimensions({"prompt_length": length_groups([row[3] for row in rows])}, "feature")
    for derivation in ("direct", "field score"):
        scores = [_number(row[0], derivation) for row in rows]
        streamed = {own.dimension.name: own.slices for own in slicer.slices(derivation)}
        assert set(streamed) == set(columns)
        for name, column in columns.items():
            sizes = Counter(value for value in column if value is not None)
            assert {own.value: own.documents for own in streamed[name]} == sizes
            with_scores = {own.value: own.scores for own in streamed[name] if own.scores.n}
            for part in slice_scores(column, scores):
                sums = with_scores.pop(part["value"])
                assert sums.n == part["n"]
                assert sums.mean == pytest.approx(part["score"])
                assert sums.sd == (None if part["sd"] is None else pytest.approx(part["sd"], abs=1e-9))
            assert not with_scores


def _number(value: Any, derivation: str) -> float | None:
    if isinstance(value, dict):
        return float(value["score"]) if derivation == "field score" else None
    return None if value is None or derivation != "direct" else float(value)


def test_sources_and_outcomes() -> None:
    slicer = SliceReader(declared=("sub",))
    for index in range(40):
        slicer.add(
            {"direct": 1.0},
            scoring={"task": "ab"[index % 2], "pred": "ab"[index % 2]},
            document={"task": "xy"[index % 2], "sub": str(index % 20), "level": index % 4},
            features={"empty_response": index % 4 == 0, "response_length": index},
        )
    kept = [own.dimension for own in slicer.slices("direct")]
    assert [(own.name, own.source, own.outcome) for own in kept] == [
        ("sub", "declared", False),
        ("task", "scoring", False),
        ("level", "document", False),
        ("empty_response", "feature", True),
        ("response_length", "feature", True),
    ]
    assert [own.value for own in slicer.slices("direct")[-1].slices] == ["0–9", "10–19", "20–29", "30–39"]
    assert slicer.unmet() == {}


def test_declared_dimensions_that_cannot_be_shown_say_why() -> None:
    slicer = SliceReader(declared=("absent", "constant", "id", "rare"))
    for index in range(1200):
        slicer.add({}, document={"constant": "x", "id": index, "rare": index == 7})
    assert [own.dimension.name for own in slicer.slices(None)] == ["rare"]
    unmet = slicer.unmet()
    assert set(unmet) == {"absent", "constant", "id"}
    assert "neither" in unmet["absent"]
    assert "1 value," in unmet["constant"]
    assert "more than 1000" in unmet["id"]


def test_memory_is_bounded_by_columns_and_values() -> None:
    slicer = SliceReader()
    for index in range(2000):
        slicer.add({"direct": 1.0}, document={f"column {index}": "x", "id": index, "kind": index % 2})
    assert [own.dimension.name for own in slicer.slices("direct")] == ["kind"]
    assert len(slicer._columns) <= 200
    assert slicer._columns["document", "id"] is None
