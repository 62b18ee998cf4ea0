"""Answers of an earlier attempt, scored again: the same files without a model, or a refusal that names what lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lmms_digits
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lmms_digits.train import train
from runner_process import Outcome, Runner

pytestmark = pytest.mark.lmms_eval

PROBE_TASKS = ("probe_sum", "probe_sampled", "probe_repeats", "probe_digit_wer")
DIGITS_TASKS = ("digits_vqa", "digits_parity", "digits_vqa_filters")
TIMES = ("seconds", "attempt")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts processes that share one data cache."""
    return Runner(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def first(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Greedy and repeated answers with token counts."""
    outcome = runner.run(tmp_path_factory.mktemp("first"), tasks=list(PROBE_TASKS), model_args="count=yes")
    assert outcome.status == 0, outcome.of("task-failed")
    return outcome


def _again(runner: Runner, folder: Path, stored: Path, **request: Any) -> Outcome:
    """A run whose model cannot be loaded."""
    return runner.run(folder, **{"model_args": "fail=load", "attempt": 2, "rescore_from": str(stored), **request})


def test_scores_and_files_are_the_same(runner: Runner, first: Outcome, tmp_path: Path) -> None:
    again = _again(runner, tmp_path, first.folder / "output" / "samples", tasks=list(PROBE_TASKS))
    assert again.status == 0, again.of("task-failed")
    for task in PROBE_TASKS:
        _compare(first, again, task)
        assert again.result(task)["attempt"] == 2
        assert again.samples(task) == first.samples(task)
        assert again.samples(task, "scores_file") == first.samples(task, "scores_file")
    assert first.result("probe_sampled")["usage"] == again.result("probe_sampled")["usage"]
    assert first.result("probe_sampled")["usage"]["output_tokens"] > 0
    assert not (tmp_path / "cache" / "probe_sum").exists()


def test_likelihoods_pictures_and_filters_are_the_same(runner: Runner, tmp_path: Path) -> None:
    model = train(tmp_path / "models")["nearest-centroid"]
    request: dict[str, Any] = {
        "model": "digits",
        "include_paths": [str(lmms_digits.tasks_folder())],
        "tasks": list(DIGITS_TASKS),
    }
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
    first = runner.run(tmp_path / "first", **request, model_args=f"path={model}", limit=30)
    assert first.status == 0, first.of("task-failed")
    stored = tmp_path / "first" / "output" / "samples"
    again = _again(runner, tmp_path / "again", stored, **request, model_args="path=/nowhere", limit=30)
    assert again.status == 0, again.of("task-failed")
    for task in DIGITS_TASKS:
        _compare(first, again, task)


def _compare(first: Outcome, again: Outcome, task: str) -> None:
    before, after = first.result(task), again.result(task)
    assert {k: v for k, v in after.items() if k not in TIMES} == {k: v for k, v in before.items() if k not in TIMES}


def test_changed_scoring_counts(runner: Runner, first: Outcome, tmp_path: Path) -> None:
    folder = Path(str(json.loads((first.folder / "output" / "tasks" / "probe_sum.json").read_text())["samples_file"]))
    stored = tmp_path / "samples"
    stored.mkdir()
    table = pq.read_table(first.folder / "output" / folder)
    wrong = pa.array([["no number"] for _ in range(table.num_rows)], table.schema.field("responses").type)
    at = table.column_names.index("responses")
    pq.write_table(table.set_column(at, "responses", wrong), stored / "probe_sum.parquet")
    again = _again(runner, tmp_path, stored)
    assert again.result("probe_sum")["metrics"][0]["value"] == 0.0


def test_what_is_missing_is_named_and_refused(runner: Runner, first: Outcome, tmp_path: Path) -> None:
    stored = tmp_path / "samples"
    stored.mkdir()
    tables = {task: pq.read_table(first.folder / "output" / "samples" / f"{task}.parquet") for task in PROBE_TASKS}
    pq.write_table(tables["probe_sum"].slice(3), stored / "probe_sum.parquet")
    asked = tables["probe_sampled"]
    prompts = pa.array([f"{text}?" for text in asked["input"].to_pylist()])
    changed = asked.set_column(asked.column_names.index("input"), "input", prompts)
    pq.write_table(changed, stored / "probe_sampled.parquet")
    pq.write_table(tables["probe_repeats"], stored / "probe_repeats.parquet")
    again = _again(runner, tmp_path, stored, tasks=[*PROBE_TASKS], repeats=3)
    failed = {event["task"]: event for event in again.of("task-failed")}
    assert again.status == 1
    assert {event["failure"] for event in failed.values()} == {"bad_request"}
    assert (
        "3 of 60 documents of probe_sum have no stored answer (documents 0, 1, 2)" in failed["probe_sum"]["message"]
    )
    assert "60 of 60 documents of probe_sampled would be asked otherwise" in failed["probe_sampled"]["message"]
    assert "expected 3 stored answers for document 0 of probe_repeats, found 4" in failed["probe_repeats"]["message"]
    assert "no stored answers of probe_digit_wer" in failed["probe_digit_wer"]["message"]
