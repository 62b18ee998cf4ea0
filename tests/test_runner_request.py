"""The runner's request: what is taken, what is refused, and that no refusal repeats a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runner_process import request_document

from mlflow_lmms.reading.errored import ErroredPolicy
from worker.runner.request import RequestError, Seeds, parse_request

FOLDER = Path("/folder")


def test_whole_request_is_read() -> None:
    request = parse_request(json.dumps(request_document(FOLDER, limit=5, offset=2, gen_kwargs="temperature=0")))
    assert request.tasks == ("probe_sum",)
    assert (request.limit, request.offset, request.gen_kwargs) == (5, 2, "temperature=0")
    assert request.seeds == Seeds(python=0, numpy=1234, torch=1234, fewshot=1234)
    assert request.cache_folder == FOLDER / "cache"
    assert request.num_fewshot is None


def test_choices_for_the_result_are_read_and_may_be_left_out() -> None:
    plain = parse_request(json.dumps(request_document(FOLDER)))
    assert (plain.primary, plain.dimensions, plain.errored) == ({}, {}, ErroredPolicy("as_scored", None))
    chosen = parse_request(
        json.dumps(
            request_document(
                FOLDER,
                primary={"t": "acc:none"},
                dimensions={"t": ["kind", "kind"]},
                errored={"policy": "wrong", "fail_above": 0.25},
            )
        )
    )
    assert chosen.primary == {"t": "acc:none"}
    assert chosen.dimensions == {"t": ("kind",)}
    assert chosen.errored == ErroredPolicy("wrong", 0.25)


@pytest.mark.parametrize(("field", "task"), [("primary", "acc_task"), ("dimensions", "cut_task")])
def test_wrong_choice_names_its_task(field: str, task: str) -> None:
    with pytest.raises(RequestError, match=task):
        parse_request(json.dumps(request_document(FOLDER, **{field: {task: 7}})))


def test_task_named_twice_is_evaluated_once() -> None:
    assert parse_request(json.dumps(request_document(FOLDER, tasks=["a", "b", "a"]))).tasks == ("a", "b")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", 2),
        ("tasks", []),
        ("tasks", "probe_sum"),
        ("tasks", [1]),
        ("limit", 0),
        ("limit", 0.5),
        ("limit", True),
        ("offset", -1),
        ("batch_size", "auto"),
        ("chunk_size", 0),
        ("repeats", 0),
        ("model", ""),
        ("cache_folder", "relative"),
        ("seeds", None),
        ("seeds", {"python": 0}),
        ("gen_kwargs", {"temperature": 0}),
        ("primary", ["acc"]),
        ("dimensions", "kind"),
        ("errored", "drop"),
        ("errored", {"policy": "forget"}),
        ("errored", {"policy": ["drop"]}),
        ("errored", {"fail_above": 1.5}),
        ("errored", {"fail_above": True}),
    ],
)
def test_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field if field != "seeds" or value is None else "numpy"):
        parse_request(json.dumps(request_document(FOLDER, **{field: value})))


@pytest.mark.parametrize("field", request_document(FOLDER).keys())
def test_missing_field_is_named(field: str) -> None:
    document = request_document(FOLDER)
    del document[field]
    with pytest.raises(RequestError, match=field):
        parse_request(json.dumps(document))


def test_refusal_does_not_repeat_model_arguments() -> None:
    with pytest.raises(RequestError) as refusal:
        parse_request(json.dumps(request_document(FOLDER, model_args=["api_key=sk-secret"])))
    assert "sk-secret" not in str(refusal.value)
