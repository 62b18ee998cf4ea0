"""Requests: what is sound comes back unchanged, and what is not is refused with every problem named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.request import EvaluationRequest, problems_by_field

SOUND: dict[str, Any] = {"adapter": "dummy", "tasks": ["mmmu_val"]}
SECRET = "sk-" + "a" * 30


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        EvaluationRequest.parse({**SOUND, **fields})
    return caught.value.message


def test_a_small_request_has_lmms_evals_own_defaults() -> None:
    request = EvaluationRequest.parse(SOUND)
    assert (request.batch_size, request.limit, request.offset, request.num_fewshot) == (1, None, 0, None)
    assert request.seeds.model_dump() == {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
    assert not request.partial


def test_every_field_is_taken_and_comes_back_from_json() -> None:
    request = EvaluationRequest.parse(
        {
            "model": "models:/qwen vl/12",
            "model_args": {"dtype": "float16", "max_pixels": 12845056, "use_cache": False},
            "tasks": ["mmmu_val", "refcoco+_bbox_val"],
            "suite": "vision-1.0",
            "limit": 8,
            "offset": 4,
            "batch_size": 16,
            "num_fewshot": 3,
            "seeds": {"python": 1, "numpy": 2, "torch": 3, "fewshot": 4},
            "gen_kwargs": {"temperature": 0, "max_new_tokens": 16, "do_sample": True},
            "repeats": 2,
            "gpus": 2,
            "priority": "high",
            "secrets": ["OPENAI_API_KEY"],
            "environment": "vllm-0.9",
            "experiment": "nightly",
            "run_name": "attempt two",
        }
    )
    assert request.model_args == {"dtype": "float16", "max_pixels": "12845056", "use_cache": "False"}
    assert request.gen_kwargs == {"temperature": "0", "max_new_tokens": "16", "do_sample": "True"}
    assert EvaluationRequest.model_validate_json(request.model_dump_json()) == request
    assert EvaluationRequest.parse(request.model_dump(mode="json", exclude_defaults=True)) == request


def test_lists_and_arguments_may_be_written_as_lmms_eval_takes_them() -> None:
    request = EvaluationRequest.parse(
        {
            "adapter": "dummy",
            "tasks": "mmmu_val, ai2d ,",
            "secrets": "HF_TOKEN,OPENAI_API_KEY",
            "model_args": "pretrained=a/b,dtype=float16",
            "gen_kwargs": "temperature=0.5",
        }
    )
    assert request.tasks == ("mmmu_val", "ai2d")
    assert request.secrets == ("HF_TOKEN", "OPENAI_API_KEY")
    assert request.model_args == {"pretrained": "a/b", "dtype": "float16"}
    assert request.gen_kwargs == {"temperature": "0.5"}


def test_null_fields_are_as_good_as_left_out() -> None:
    assert EvaluationRequest.parse({**SOUND, "limit": None, "seeds": None}) == EvaluationRequest.parse(SOUND)


@pytest.mark.parametrize("uri", ["models:/a/1", "models:/a b.c-d/120", "models:/a@champion", "models:/a@x-y_1"])
def test_a_registered_model_is_named_by_version_or_alias(uri: str) -> None:
    assert EvaluationRequest.parse({"model": uri, "tasks": "t"}).model == uri


@pytest.mark.parametrize(
    "uri",
    ["a", "models:/a", "models:/a/latest", "models:/a/0", "models:/a/01", "models:/a@", "models:/a/b/1", "runs:/a/m"],
)
def test_another_way_to_name_a_model_is_refused_with_the_right_one(uri: str) -> None:
    with pytest.raises(InvalidRequestError, match="models:/NAME/3 or models:/NAME@alias"):
        EvaluationRequest.parse({"model": uri, "tasks": "t"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"adapter": None}, "either model"),
        ({"model": "models:/a/1"}, "not both"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": ""}, "at least one task"),
        ({"tasks": ["a", "a"]}, "twice"),
        ({"tasks": ["../a"]}, "tasks.0"),
        ({"tasks": ["a\nb"]}, "tasks.0"),
        ({"tasks": [" a"]}, "tasks.0"),
        ({"tasks": ["a" * 251]}, "tasks.0"),
        ({"limit": 0}, "limit: Input should be greater than or equal to 1, got '0'"),
        ({"limit": 0.5}, "limit"),
        ({"limit": 10**30}, "limit"),
        ({"offset": 10**30}, "offset"),
        ({"seeds": {"numpy": -1}}, "seeds.numpy"),
        ({"seeds": {"numpy": 2**32}}, "seeds.numpy"),
        ({"model_args": {"path": "\ud800"}}, "model_args.path"),
        ({"model_args": {"path": "a\0b"}}, "model_args.path"),
        ({"experiment": "a\nb"}, "experiment"),
        ({"experiment": "   "}, "experiment"),
        ({"run_name": "a\0b"}, "run_name"),
        ({"limit": "many"}, "got 'many'"),
        ({"offset": -1}, "offset"),
        ({"batch_size": "auto"}, "batch_size"),
        ({"priority": "urgent"}, "'high', 'normal' or 'low'"),
        ({"secrets": ["sk-x"]}, "secrets.0"),
        ({"gpus": 65}, "gpus"),
        ({"smoke": 5, "limit": 5}, "one of smoke and limit"),
        ({"seeds": {"python": "x"}}, "seeds.python"),
        ({"seeds": {"dice": 6}}, "seeds.dice"),
        ({"gen_kwargs": {"until": ["a"]}}, "gen_kwargs.until"),
        ({"gen_kwargs": "temperature"}, "NAME=VALUE"),
        ({"model_args": "pretrained"}, "NAME=VALUE"),
        ({"model_args": ["a"]}, "model_args"),
        ({"suite": "a/b"}, "suite"),
        ({"environment": "; rm"}, "environment"),
        ({"adapter": "a b"}, "adapter"),
        ({"experiment": ""}, "experiment"),
        ({"run_name": "x" * 251}, "run_name"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_was_expected(fields: dict[str, Any], words: str) -> None:
    assert words in refused(**fields)


def test_an_unknown_field_is_refused_with_those_that_there_are() -> None:
    message = refused(task="mmmu_val")
    assert message.startswith("task: no such field")
    assert "tasks" in message


def test_every_problem_is_named_at_once() -> None:
    message = refused(limit=0, batch_size=0, colour="red")
    assert all(name in message for name in ("limit:", "batch_size:", "colour:"))


@pytest.mark.parametrize("field", ["model_args", "gen_kwargs"])
def test_a_secret_in_the_arguments_is_refused_and_not_repeated(field: str) -> None:
    message = refused(**{field: {"api_key": SECRET}})
    assert "secrets=NAME" in message
    assert SECRET not in message


@pytest.mark.parametrize("mapping", [None, [], "a=b", 3])
def test_what_is_no_mapping_is_refused(mapping: Any) -> None:
    with pytest.raises(InvalidRequestError, match="mapping of fields"):
        EvaluationRequest.parse(mapping)


def test_keys_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidRequestError):
        EvaluationRequest.parse({**SOUND, 3: "x"})  # type: ignore[dict-item]


def test_smoke_sets_the_limit_and_makes_the_result_partial() -> None:
    request = EvaluationRequest.parse({**SOUND, "smoke": 3})
    assert (request.effective_limit, request.partial) == (3, True)
    assert EvaluationRequest.parse({**SOUND, "offset": 1}).partial
    assert EvaluationRequest.parse({**SOUND, "limit": 1}).partial


def test_a_form_gets_its_problems_by_field() -> None:
    assert problems_by_field(SOUND) == {}
    problems = problems_by_field({**SOUND, "limit": 0, "model_args": "x"})
    assert set(problems) == {"limit", "model_args"}
    assert "NAME=VALUE" in problems["model_args"]
    assert "not both" in problems_by_field({**SOUND, "model": "models:/a/1"})[""]
    assert "secrets=NAME" in problems_by_field({**SOUND, "model_args": {"api_key": SECRET}})[""]


def test_every_task_of_lmms_eval_may_be_asked_for(catalogue: Catalogue) -> None:
    names = (*catalogue.tasks, *catalogue.groups, *catalogue.tags)
    asked = EvaluationRequest.parse({"adapter": "dummy", "tasks": sorted(set(names))})
    assert len(asked.tasks) > 1500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(list(EvaluationRequest.model_fields)) | st.text(max_size=5), JSON, max_size=6))
def test_whatever_comes_is_a_request_or_a_refusal(mapping: dict[str, Any]) -> None:
    try:
        request = EvaluationRequest.parse(mapping)
    except InvalidRequestError as error:
        assert error.message
        assert problems_by_field(mapping)
    else:
        assert EvaluationRequest.model_validate_json(request.model_dump_json()) == request
        assert problems_by_field(mapping) == {}


def test_choices_by_task_may_be_written_as_text_or_as_mappings() -> None:
    written = EvaluationRequest.parse(
        SOUND | {"primary": "a=acc, b=f1:strict", "dimensions": "a=size,a=kind", "errored": "wrong:0.05"}
    )
    spelled = {
        "primary": {"a": "acc", "b": "f1:strict"},
        "dimensions": {"a": ["size", "kind"]},
        "errored": {"policy": "wrong", "fail_above": 0.05},
    }
    assert written == EvaluationRequest.parse(SOUND | spelled)
    assert EvaluationRequest.parse(written.model_dump(mode="json", exclude_defaults=True)) == written
    assert EvaluationRequest.parse(SOUND | {"errored": "drop"}).errored is not None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"primary": "acc"}, "expected TASK=CHOICE, separated by commas, got 'acc'"),
        ({"primary": "a=x,a=y"}, "a task is named twice"),
        ({"primary": {"a": "x,y"}}, "primary.a"),
        ({"dimensions": {"a": []}}, "dimensions.a"),
        ({"dimensions": {"a": ["x\n"]}}, "dimensions.a"),
        ({"errored": "ignore"}, "errored.policy"),
        ({"errored": "drop:many"}, "errored.fail_above"),
        ({"errored": {"fail_above": 1.5}}, "errored.fail_above"),
        ({"errored": {"fail_above": float("nan")}}, "errored.fail_above"),
        ({"suite": "s@2"}, "give suite=NAME@REVISION and no tasks"),
        ({"suite": "s@newest", "tasks": []}, "suite_revision"),
        ({"suite": "s@2", "suite_revision": 3, "tasks": []}, "given twice"),
        ({"suite_revision": 3}, "give suite=NAME@REVISION"),
    ],
)
def test_choices_that_make_no_sense_are_named(fields: dict[str, Any], words: str) -> None:
    assert words in refused(**fields)


def test_a_suite_is_named_with_its_revision() -> None:
    request = EvaluationRequest.parse({"adapter": "dummy", "suite": "vision@3"})
    assert (request.suite, request.suite_revision) == ("vision", 3)
    assert EvaluationRequest.parse(request.model_dump(mode="json")) == request
