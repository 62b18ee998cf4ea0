"""The settings of runs side by side."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mlflow.entities import Param, Run, RunData, RunInfo, RunTag

from mlflow_lmms.config_diff import ConfigDiff, config_diff
from mlflow_lmms.names import Tag


def run(name: str, params: dict[str, str] | None = None, tags: dict[str, str] | None = None) -> Run:
    info = RunInfo(
        run_id=name, experiment_id="1", user_id="u", status="FINISHED", start_time=0, end_time=1,
        lifecycle_stage="active", run_name=name,
    )  # fmt: skip
    data = RunData(
        params=[Param(*pair) for pair in (params or {}).items()],
        tags=[RunTag(*pair) for pair in (tags or {}).items()],
    )
    return Run(info, data)


def values(found: ConfigDiff, *, everything: bool = False) -> dict[tuple[str, str], list[str | None]]:
    told = found.as_json(everything=everything)["settings"]
    return {(s["section"], s["name"]): list(s["values"].values()) for s in told}


def test_arguments_are_compared_one_by_one_and_what_is_equal_is_counted() -> None:
    one = run("a", {"model_args": "pretrained=x,dtype=float16", "limit": "8", "seed.numpy": "0"})
    two = run("b", {"model_args": "pretrained=x,dtype=bfloat16,attn=sdpa", "seed.numpy": "0"})
    found = config_diff([one, two], {})
    assert values(found) == {
        ("param", "limit"): ["8", None],
        ("param", "model_args.attn"): [None, "sdpa"],
        ("param", "model_args.dtype"): ["float16", "bfloat16"],
    }
    assert found.as_json()["equal"] == 2
    assert values(found, everything=True)["param", "model_args.pretrained"] == ["x", "x"]


def test_versions_and_what_results_are_made_of_are_compared() -> None:
    def tags(generation: str, version: str) -> dict[str, str]:
        fingerprint = {"generation": generation, "num_fewshot": 0, "judge": {"model": "j"}, "limit": None}
        return {
            Tag.MODEL: "m",
            Tag.MODEL_VERSION: version,
            Tag.TASKS: "t",
            Tag.primary("t"): json.dumps({"metric": "acc", "filter": "none"}),
            Tag.fingerprint("t"): json.dumps(fingerprint),
        }

    runs = [run("a", tags=tags("g1", "1")), run("b", tags=tags("g2", "2"))]
    found = config_diff(runs, {"a": {"torch": "2.1", "python": "3.11"}, "b": {"torch": "2.2", "python": "3.11"}})
    assert found.models == {"a": "m v1", "b": "m v2"}
    assert values(found) == {
        ("environment", "torch"): ["2.1", "2.2"],
        ("run", "model version"): ["1", "2"],
        ("task t", "generation"): ["g1", "g2"],
    }
    assert values(found, everything=True)["task t", "judge.model"] == ["j", "j"]


def test_what_looks_like_a_secret_is_masked() -> None:
    one = run("a", {"model_args": "api_key=abcdefgh12345,base=https://u:pw@host/x", "token": "hf_abcdefghijklmnop"})
    two = run("b", {"gen_kwargs": '{"secret": "s"}'})
    text = json.dumps(config_diff([one, two], {"a": {"openai_api_key": "sk-abcdefghijkl"}}).as_json(everything=True))
    for secret in ("abcdefgh12345", "u:pw", "hf_abcdef", "sk-abc"):
        assert secret not in text
    assert "***" in text


def deep(levels: int) -> Any:
    content: Any = 1
    for _ in range(levels):
        content = {"a": content}
    return content


@pytest.mark.parametrize(
    "spoiled",
    ["", "{", "[]", "[" * 100_000, json.dumps(deep(400)), "=,=,", "a,b", '{"a": [[[[1]]]]}', "x" * 100_000],
)
def test_what_somebody_spoiled_does_no_harm(spoiled: str) -> None:
    tags = {Tag.TASKS: "t", Tag.fingerprint("t"): spoiled, Tag.primary("t"): spoiled}
    runs = [run("a", {"model_args": spoiled, "dimensions": spoiled}, tags), run("b")]
    told = config_diff(runs, {"a": deep(400), "b": [1]}).as_json(everything=True)
    assert set(told["models"]) == {"a", "b"}
    assert all(len(value or "") <= 2000 for s in told["settings"] for value in s["values"].values())
