"""Whatever JSON a file holds, reading it raises nothing, and its warnings can be written as JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from reading_fixtures import Result, Row, warnings_of

from mlflow_lmms.reading.metric_key import reported_metrics
from mlflow_lmms.reading.slice_sums import SliceReader
from mlflow_lmms.reading.slices import scoring_columns

_FIELDS = st.sampled_from(
    ["score", "acc", "pred", "answer", "judge_response", "gpt_eval_score", "error", "choices", "scores", "x", ""]
)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_FIELDS, inner, max_size=4),
    max_leaves=8,
)
_ROWS = st.lists(st.tuples(_JSON, _JSON, _JSON, st.text(max_size=20)), max_size=12)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["acc,none", "acc_stderr,none", "gpt_score,x", ",", "a"]), _JSON), _ROWS)
def test_reading_anything(entry: dict[str, Any], rows: list[tuple[Any, Any, Any, str]]) -> None:
    reported_metrics(entry)
    result = Result(
        {"acc,none": 0.5, **entry},
        [Row({"acc": value, "gpt_score": value}, response, target, text) for value, response, target, text in rows],
    )
    for warning in warnings_of(result):
        json.dumps(warning.document(), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=60)
@given(st.lists(st.tuples(_JSON, _JSON), max_size=12))
def test_slicing_anything(rows: list[tuple[Any, Any]]) -> None:
    slicer = SliceReader(declared=("x",))
    for value, column in rows:
        slicer.add({"direct": 1.0}, scoring=scoring_columns([value]), document={"x": column}, features={"n": value})
    slicer.slices("direct")
    slicer.unmet()
