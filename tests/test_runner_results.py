"""What the runner finds out beyond lmms-eval's own numbers, on real runs of the probe's tasks."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from runner_process import Outcome, Runner

from mlflow_lmms.merged_results import write_slices
from mlflow_lmms.metric_interval import metric_interval
from mlflow_lmms.samples import read_samples
from mlflow_lmms.score_vectors import pair, read_score_vector
from mlflow_lmms.task_result import read_task_result

pytestmark = pytest.mark.lmms_eval

TASKS = ("probe_digit_wer", "probe_hanging", "probe_writing", "probe_repeats", "probe_judged", "probe_sum")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts runner processes that share one data cache."""
    return Runner(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def outcome(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One run of all these tasks, with token counts and a judge in the environment."""
    judge = {
        "API_TYPE": "openai",
        "MODEL_VERSION": "gpt-x",
        "OPENAI_API_URL": "https://judge.example/v1?key=sk-secret",
    }
    found = runner.run(
        tmp_path_factory.mktemp("results"),
        environment=judge,
        tasks=list(TASKS),
        model_args="count=yes",
        primary={"probe_sum": "no_such_metric"},
        dimensions={"probe_sum": ["no_such_column"]},
    )
    assert found.status == 0, found.of("task-failed") or found.console
    return found


def metric(outcome: Outcome, task: str) -> dict[str, Any]:
    (found,) = outcome.result(task)["metrics"]
    assert isinstance(found, dict)
    return found


def logged(outcome: Outcome, *words: str) -> bool:
    return any(all(word in event["message"] for word in words) for event in outcome.of("log"))


def errors(outcome: Outcome, task: str, kind: str | None = None) -> tuple[int, int]:
    """Wrong digits and all digits, from the stored answers; of the documents of one kind or of all."""
    rows = [row for row in outcome.samples(task) if kind in (None, row["doc:kind"])]
    digits = sum(len(row["target"]) for row in rows)
    wrong = sum(
        one != other
        for row in rows
        for one, other in zip(row["responses"][0].rjust(len(row["target"])), row["target"], strict=False)
    )
    return wrong, digits


def test_a_corpus_metric_has_no_scores_per_sample(outcome: Outcome) -> None:
    found = metric(outcome, "probe_digit_wer")
    assert (found["level"], found["per_sample"], found["factor"], found["n"]) == ("corpus", False, None, 60)
    assert (found["higher_is_better"], found["scale"]["high"]) == (False, 100.0)
    columns = pq.read_schema(outcome.folder / "output/samples/probe_digit_wer.scores.parquet").names
    assert columns == ["doc_hash", "row_key", "doc_id"]


def test_a_corpus_metrics_slices_are_the_tasks_own_aggregation(outcome: Outcome) -> None:
    result = outcome.result("probe_digit_wer")
    assert result["dimension_sources"]["kind"] == {"source": "declared", "outcome": False}
    assert result["dimension_sources"]["response_length"]["outcome"]
    pieces = [piece for piece in result["slices"] if piece["dimension"] == "kind"]
    assert {piece["value"] for piece in pieces} == {"even", "odd"}
    for piece in pieces:
        wrong, digits = errors(outcome, "probe_digit_wer", piece["value"])
        assert piece["score"] == pytest.approx(100 * wrong / digits)
        assert piece["low"] <= piece["score"] <= piece["high"]
        assert (piece["method"], piece["sd"]) == ("bootstrap", None)


def test_a_corpus_metric_has_a_bootstrap_interval(outcome: Outcome) -> None:
    found = metric(outcome, "probe_digit_wer")
    wrong, digits = errors(outcome, "probe_digit_wer")
    assert found["value"] == found["native"] == pytest.approx(100 * wrong / digits)
    assert found["method"] == "bootstrap"
    # About what the binomial says of so many digits.
    half = 196 * (wrong / digits * (1 - wrong / digits) / digits) ** 0.5
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.5)
    assert outcome.of("score", "probe_digit_wer")[-1]["low"] == found["low"]


def test_an_aggregation_that_hangs_does_not_hang_the_task(outcome: Outcome) -> None:
    found = metric(outcome, "probe_hanging")
    assert found["value"] == metric(outcome, "probe_digit_wer")["value"]
    assert found["low"] is None
    assert "not done within 10 s" in found["note"]
    assert outcome.result("probe_hanging")["slices"] == []
    assert logged(outcome, "probe_hanging", "not done within 10 s")


def test_an_aggregation_that_writes_files_is_called_once(outcome: Outcome) -> None:
    found = metric(outcome, "probe_writing")
    assert found["low"] is None
    assert "may write files" in found["note"]
    assert (outcome.folder / "calls.txt").read_text() == "called\n"


def test_every_answer_is_scored_alone(outcome: Outcome) -> None:
    found = outcome.result("probe_repeats")["stability"]
    scores = [
        [float(int(answer[-1:] or "1", 16) % 2 == 0) for answer in row["responses"]]
        for row in outcome.samples("probe_repeats")
    ]
    assert {len(own) for own in scores} == {4}
    assert (found["k"], found["metric"], found["note"]) == (4, "even", None)
    assert found["EA"] == pytest.approx(statistics.fmean(value for own in scores for value in own))
    assert found["CA"] == pytest.approx(statistics.fmean(float(sum(own) > 2) for own in scores))
    assert found["IV"] == pytest.approx(statistics.fmean(map(statistics.variance, scores)))
    assert found["CR"] == pytest.approx(statistics.fmean(float(len(set(own)) == 1) for own in scores))
    assert metric(outcome, "probe_repeats")["value"] == statistics.fmean(own[0] for own in scores)
    assert outcome.result("probe_sum")["stability"] is None


def test_a_judge_is_not_asked_again_for_every_answer(outcome: Outcome) -> None:
    found = outcome.result("probe_judged")["stability"]
    assert (found["k"], found["EA"]) == (2, None)
    assert "judge" in found["note"]


def test_the_judge_is_named_without_its_key(outcome: Outcome) -> None:
    judge = {"type": "openai", "model": "gpt-x", "address": "judge.example"}
    result = outcome.result("probe_judged")
    assert result["judge"] == result["fingerprint"]["judge"] == judge
    assert outcome.result("probe_sum")["judge"] is None
    assert "sk-secret" not in json.dumps(result)


def test_samples_that_the_judge_failed_are_errored(outcome: Outcome) -> None:
    result = outcome.result("probe_judged")
    rows = outcome.samples("probe_judged")
    failed = [row["doc_id"] for row in rows if row["errored"] == "judge failed"]
    assert failed == [row["doc_id"] for row in rows if int(row["target"]) < 5]
    assert result["errored"]["reasons"]["judge failed"] == len(failed) > 5
    assert "judge_failed" in {warning["name"] for warning in result["warnings"]}


def test_a_blank_answer_is_errored_and_lmms_evals_number_stands(outcome: Outcome) -> None:
    result = outcome.result("probe_sum")
    assert result["errored"] == {
        "count": 1,
        "reasons": {"blank answer": 1},
        "policy": "as_scored",
        "fail_above": None,
    }
    assert [row["doc_id"] for row in outcome.samples("probe_sum") if row["errored"]] == [13]
    assert metric(outcome, "probe_sum")["value"] == metric(outcome, "probe_sum")["native"] == 0.75


def test_what_was_asked_for_in_vain_is_said(outcome: Outcome) -> None:
    result = outcome.result("probe_sum")
    assert result["primary"]["metric"] == "exact_match"
    assert [warning["name"] for warning in result["warnings"]] == ["primary_not_found"]
    assert logged(outcome, "probe_sum", "no_such_column")


def test_tokens_are_counted(outcome: Outcome) -> None:
    rows = outcome.samples("probe_sum")
    assert {row["tokens:input"] for row in rows} == {20}
    assert [row["tokens:output"] for row in rows] == [len(row["responses"][0]) for row in rows]
    assert "tokens:reasoning" not in rows[0]
    told = sum(row["tokens:output"] for row in rows)
    assert outcome.result("probe_sum")["usage"] == {"input_tokens": 1200, "output_tokens": told, "samples": 60}
    assert {row["tokens:input"] for row in outcome.samples("probe_repeats")} == {80}


def test_metrics_tell_their_scale_and_moments(outcome: Outcome) -> None:
    found = metric(outcome, "probe_sum")
    assert (found["factor"], found["level"], found["scale"]["high"], found["mean"]) == (1.0, "sample", 1.0, 0.75)
    assert found["sd"] == pytest.approx(statistics.stdev([1.0] * 45 + [0.0] * 15))
    assert found["direction_reason"]


def test_the_fingerprint_is_complete(outcome: Outcome) -> None:
    told = outcome.result("probe_sum")["fingerprint"]
    assert (told["filter"], told["origin"], told["judge"], len(told["rows"])) == ("none", "run", None, 64)


@pytest.mark.parametrize("task", TASKS)
def test_core_reads_what_the_runner_wrote(outcome: Outcome, task: str, tmp_path: Path) -> None:
    folder = outcome.folder / "output"
    result = read_task_result(folder / outcome.of("task-finished", task)[0]["result"])
    (told,) = result.metrics
    last = outcome.of("score", task)[-1]
    interval = metric_interval(told)
    assert (interval is None) == (last["low"] is None) == (task in ("probe_hanging", "probe_writing"))
    if interval is not None:
        assert (interval.low, interval.high) == pytest.approx((last["low"], last["high"]), rel=0.02)
    page = read_samples(folder / result.samples_file, errored_only=True)
    assert page.total == result.errored.count
    if told.per_sample:
        vector = read_score_vector(folder / result.scores_file, told.metric, told.filter)
        assert vector.values.mean() == pytest.approx((told.value or 0.0) / (told.factor or 1.0))
        assert pair(vector, vector)[0].tolist() == vector.values.tolist()
    write_slices(tmp_path / "slices.parquet", [result])
    assert pq.read_table(tmp_path / "slices.parquet").num_rows == len(result.slices)


def test_too_many_errored_samples_fail_the_task_and_a_retry_asks_for_them_alone(
    runner: Runner, tmp_path: Path
) -> None:
    allowed = {"policy": "as_scored", "fail_above": 0.01}
    failed = runner.run(tmp_path, tasks=["probe_sum"], errored=allowed)
    assert failed.status == 1
    (event,) = failed.of("task-failed")
    assert event["failure"] == "scoring"
    assert "1 of 60 samples are errored (blank answer: 1); the run allows 1.0%" in event["message"]
    assert "retry" in event["message"]

    journal = tmp_path / "journal.jsonl"
    again = {"PROBE_JOURNAL": str(journal), "PROBE_ANSWERS_ALL": "yes"}
    retried = runner.run(tmp_path, environment=again, tasks=["probe_sum"], attempt=2, errored=allowed)
    assert retried.status == 0
    assert [json.loads(line)[1] for line in journal.read_text().splitlines()] == [13]
    assert retried.result("probe_sum")["errored"]["count"] == 0


def test_errored_samples_can_be_dropped(runner: Runner, tmp_path: Path) -> None:
    tasks = ["probe_sum", "probe_digit_wer"]
    found = runner.run(tmp_path, tasks=tasks, errored={"policy": "drop", "fail_above": 0.5})
    assert found.status == 0
    dropped = metric(found, "probe_sum")
    assert (dropped["value"], dropped["native"], dropped["n"], dropped["errored"]) == (45 / 59, 0.75, 59, 1)
    assert found.of("score", "probe_sum")[-1]["value"] == 45 / 59
    corpus = metric(found, "probe_digit_wer")
    wrong, digits = errors(found, "probe_digit_wer")
    assert corpus["native"] == pytest.approx(100 * wrong / digits)
    assert corpus["value"] == pytest.approx(100 * (wrong - 2) / (digits - 2))  # without the two digits of 14
    assert corpus["n"] == 59
