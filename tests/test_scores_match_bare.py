"""The runner's numbers against lmms-eval's own command: aggregates and every sample, to the last digit.

One matrix over the digits benchmark. Each case is one bare command and one run of ours on the same model and tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmms_digits
import pytest
from lmms_digits.train import train
from runner_process import DEADLINE_S, Outcome, Runner

pytestmark = pytest.mark.lmms_eval

ALL = ("digits_vqa", "digits_parity", "digits_sum", "digits_robust")
FILTERS = {"digits_vqa_filters": ["strict-match", "flexible-extract"]}


@dataclass(frozen=True)
class Case:
    """One way of asking: our request's fields, and the bare command's arguments for the same."""

    request: dict[str, Any]
    arguments: str
    tasks: tuple[str, ...]
    samples: int


CASES = {
    # Free text, multiple choice, two images, a group's members, two filters; many small chunks.
    "whole group and filters, in chunks": Case(
        {"tasks": ["digits", "digits_vqa_filters"], "limit": 60, "chunk_size": 8},
        "--tasks digits,digits_vqa_filters --limit 60",
        (*ALL, "digits_vqa_filters"),
        60,
    ),
    "examples in the prompt, a window of documents": Case(
        {"tasks": ["digits_vqa", "digits_parity"], "num_fewshot": 2, "limit": 30, "offset": 45, "batch_size": 4},
        "--tasks digits_vqa,digits_parity --num_fewshot 2 --limit 30 --offset 45 --batch_size 4",
        ("digits_vqa", "digits_parity"),
        30,
    ),
    "sampled answers, repeated, other seeds": Case(
        {
            "tasks": ["digits_vqa", "digits_sum"],
            "gen_kwargs": "temperature=1.5,do_sample=True",
            "repeats": 3,
            "limit": 40,
            "chunk_size": 9,
            "seeds": {"python": 5, "numpy": 6, "torch": 7, "fewshot": 8},
        },
        "--tasks digits_vqa,digits_sum --gen_kwargs temperature=1.5,do_sample=True --repeats 3 --limit 40 "
        "--seed 5,6,7,8",
        ("digits_vqa", "digits_sum"),
        40,
    ),
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts processes that share one data cache."""
    return Runner(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def model_args(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weakest digits model, so that right and wrong answers both occur."""
    return f"path={train(tmp_path_factory.mktemp('models'))['nearest-centroid']}"


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_bare_commands(name: str, runner: Runner, model_args: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = str(lmms_digits.tasks_folder())
    bare = _bare(runner, tmp_path, ["--model_args", model_args, "--include_path", folder, *case.arguments.split()])
    ours = runner.run(tmp_path, model="digits", model_args=model_args, include_paths=[folder], **case.request)
    assert ours.status == 0, ours.of("task-failed") or ours.console
    assert [event["task"] for event in ours.of("task-finished")] == list(case.tasks)
    for task in case.tasks:
        _compare_aggregates(ours.result(task), bare.results["results"][task])
        assert ours.result(task)["samples"] == case.samples
        for index, name_of_filter in enumerate(FILTERS.get(task, ["none"])):
            rows = bare.samples(task)[index * case.samples : (index + 1) * case.samples]
            _compare_samples(ours, task, name_of_filter, rows)


@dataclass(frozen=True)
class _Bare:
    folder: Path
    results: dict[str, Any]

    def samples(self, task: str) -> list[dict[str, Any]]:
        (file,) = self.folder.rglob(f"*_samples_{task}.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]


def _bare(runner: Runner, folder: Path, arguments: list[str]) -> _Bare:
    """Run lmms-eval's own command."""
    output = folder / "bare"
    command = [sys.executable, "-P", "-m", "lmms_eval", "--model", "digits", *arguments]
    done = subprocess.run(
        [*command, "--log_samples", "--output_path", str(output)],
        env=runner.environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_S,
        check=False,
    )
    files = list(output.rglob("*_results.json"))
    assert len(files) == 1, done.stdout.decode(errors="replace")[-4000:]
    return _Bare(output, json.loads(files[0].read_text()))


def _compare_aggregates(ours: dict[str, Any], bare: dict[str, Any]) -> None:
    expected = {key: value for key, value in bare.items() if key != "alias" and value is not None}
    assert {key: value for key, value in ours["raw"].items() if key != "alias"} == expected
    assert ours["metrics"]
    for metric in ours["metrics"]:
        assert metric["value"] == bare[f"{metric['metric']},{metric['filter']}"]
        assert metric["per_sample"]


def _compare_samples(ours: Outcome, task: str, name: str, bare: list[dict[str, Any]]) -> None:
    expected = {row["doc_id"]: row for row in bare}
    rows = ours.samples(task)
    assert [row["doc_id"] for row in rows] == sorted(expected)
    metrics = [metric["metric"] for metric in ours.result(task)["metrics"] if metric["filter"] == name]
    assert metrics
    for row in rows:
        theirs = expected[row["doc_id"]]
        assert {m: row[f"score:{m}:{name}"] for m in metrics} == {m: float(theirs[m]) for m in metrics}
        filtered = theirs["filtered_resps"]
        assert row[f"filtered:{name}"] == filtered or json.loads(row[f"filtered:{name}"]) == filtered
        assert row["target"] == str(theirs["target"])
        assert row["input"] == theirs["input"]
