"""The main job over everything real: submit, queue, worker, lmms-eval, MLflow run, leaderboard."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmms_digits
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from running_stack import RunningStack

from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotFoundError
from mlflow_lmms.names import Artifact, MetricName, Tag

pytestmark = pytest.mark.lmms_eval

MODELS = ("nearest-centroid", "logistic-regression", "k-nearest-neighbours")
TASKS = ("digits_vqa", "digits_parity")


@pytest.fixture(scope="module")
def finished(stack: RunningStack) -> dict[str, dict[str, Any]]:
    """One finished evaluation of each model on two whole tasks."""
    runs = {model: stack.submit(model, tasks=TASKS) for model in MODELS}
    return {model: stack.wait(run_id) for model, run_id in runs.items()}


def test_every_model_finishes_and_mlflow_says_so(stack: RunningStack, finished: dict[str, dict[str, Any]]) -> None:
    for model, evaluation in finished.items():
        assert evaluation["state"] == "finished", evaluation["tasks"]
        run = stack.shown(evaluation["run_id"], "FINISHED")
        assert run.info.run_name == f"{model} v1 · digits_vqa +1"
        assert run.data.tags[Tag.STATE] == "finished"
        assert run.data.tags[Tag.MODEL] == model
        assert run.data.tags[Tag.MODEL_VERSION] == "1"
        assert run.data.params["tasks"] == "digits_vqa,digits_parity"
        assert run.data.metrics[str(MetricName("digits_vqa", "exact_match").of("n"))] == 597
        assert run.inputs is not None
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == list(TASKS)
        assert run.inputs.model_inputs[0].model_id == run.data.tags[Tag.LOGGED_MODEL]


def test_artifacts_stand_under_their_names(
    stack: RunningStack, finished: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    mlflow = MlflowClient(stack.url)
    run_id = finished["k-nearest-neighbours"]["run_id"]
    folder = Path(mlflow.download_artifacts(run_id, Artifact.ROOT, str(tmp_path))).parent
    for path in (Artifact.REQUEST, Artifact.RESULTS, Artifact.SLICES, Artifact.LOG, Artifact.ENVIRONMENT):
        assert (folder / path).is_file(), path
    assert (folder / Artifact.COMMAND).read_text().strip().endswith("--log_samples")
    slices = pq.read_table(folder / Artifact.SLICES).to_pylist()
    assert {piece["task"] for piece in slices} == set(TASKS)
    lines = [json.loads(line) for line in (folder / Artifact.LOG).read_text().splitlines()]
    assert {"time", "level", "phase", "rank", "message"} <= lines[0].keys()


def test_scores_equal_those_of_the_bare_command(
    finished: dict[str, dict[str, Any]], model_folder: Path, stack: RunningStack, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lmms_eval", "--model", "digits", "--model_args", f"path={model_folder}"]
    command += ["--tasks", ",".join(TASKS), "--include_path", str(lmms_digits.tasks_folder())]
    command += ["--output_path", str(tmp_path), "--log_samples"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    results = json.loads(next(tmp_path.rglob("*results.json")).read_text())["results"]
    run = MlflowClient(stack.url).get_run(finished["k-nearest-neighbours"]["run_id"])
    for task, metric in (("digits_vqa", "exact_match"), ("digits_parity", "acc")):
        assert run.data.metrics[f"{task}/{metric}"] == results[task][f"{metric},none"]


def test_leaderboard_ranks_the_models_and_says_it_in_words(
    stack: RunningStack, finished: dict[str, dict[str, Any]]
) -> None:
    board = stack.client.leaderboard(suite="digits_vqa +1")
    assert [column["task"] for column in board["columns"]] == sorted(TASKS)
    assert board["rows"][-1]["model"] == "nearest-centroid v1"
    cells = {row["model"]: row["cells"]["digits_vqa"] for row in board["rows"]}
    assert cells["nearest-centroid v1"]["rank"] == 3
    for cell in cells.values():
        assert cell["low"] < cell["value"] < cell["high"]
        assert cell["n"] == 597
    assert any("beats nearest-centroid v1" in sentence for sentence in board["verdicts"])


def test_wrong_samples_come_with_picture_question_answer_and_expected(
    stack: RunningStack, finished: dict[str, dict[str, Any]]
) -> None:
    evaluation = finished["nearest-centroid"]
    page = stack.client.samples(evaluation["run_id"], "digits_vqa", wrong=True, limit=5)
    score = next(task["score"] for task in evaluation["tasks"] if task["task"] == "digits_vqa")
    assert page["total"] == round(597 * (1 - score))
    for sample in page["samples"]:
        assert "digit" in sample["input"]
        assert sample["filtered"]["none"] != sample["target"]
        picture = stack.client.media(evaluation["run_id"], "digits_vqa", sample["index"], 0)
        assert picture.startswith(b"\x89PNG")


def test_live_events_end_with_the_final_score(stack: RunningStack) -> None:
    run_id = stack.submit("k-nearest-neighbours", tasks=["digits_robust"])
    events = list(stack.client.events(run_id))
    evaluation = stack.wait(run_id)
    assert evaluation["state"] == "finished", evaluation["tasks"]
    scores = [event["data"] for event in events if event["kind"] == "score"]
    progress = [event["data"] for event in events if event["kind"] == "progress"]
    assert len(scores) >= 10
    assert len([entry for entry in progress if entry["phase"] == "generate"]) >= 10
    assert scores[-1]["final"]
    assert scores[-1]["value"] == evaluation["tasks"][0]["score"]
    run = MlflowClient(stack.url).get_run(run_id)
    assert run.data.metrics["digits_robust/exact_match"] == evaluation["tasks"][0]["score"]
    assert any(MetricName.parse(name).dimension == "perturbation" for name in run.data.metrics if "/" in name)  # type: ignore[union-attr]


def test_one_failed_task_leaves_the_results_of_the_others(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=["broken_scoring", "missing_dataset", "digits_vqa"], limit=20)
    evaluation = stack.wait(run_id)
    tasks = {task["task"]: task for task in evaluation["tasks"]}
    assert evaluation["state"] == "failed"
    assert tasks["digits_vqa"]["state"] == "finished"
    assert (tasks["broken_scoring"]["state"], tasks["broken_scoring"]["failure"]) == ("failed", "scoring")
    assert "no such answer key" in tasks["broken_scoring"]["message"]
    assert tasks["broken_scoring"]["log_tail"]
    assert (tasks["missing_dataset"]["state"], tasks["missing_dataset"]["failure"]) == ("failed", "dataset")
    run = stack.shown(run_id, "FAILED")
    assert run.data.tags[Tag.FAILURE] == "dataset,scoring"
    assert "digits_vqa/exact_match" in run.data.metrics


def test_retry_runs_only_what_is_missing_in_the_same_run(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=["broken_scoring", "digits_vqa"], limit=20)
    before = stack.wait(run_id)
    assert stack.client.retry(run_id)["tasks"] == ["broken_scoring"]
    after = stack.wait(run_id)
    attempts = {task["task"]: task["attempt"] for task in after["tasks"]}
    assert attempts == {"broken_scoring": 2, "digits_vqa": 1}
    assert after["tasks"][1]["ended_at"] == before["tasks"][1]["ended_at"]


def test_what_cannot_work_is_refused_before_it_is_queued(stack: RunningStack) -> None:
    before = len(stack.client.evaluations())
    with pytest.raises(InvalidRequestError, match="did you mean digits_vqa"):
        stack.submit(tasks=["digits_vqaa"])
    with pytest.raises(NotFoundError, match="has the versions 1"):
        stack.client.submit(model="models:/k-nearest-neighbours/99", tasks=["digits_vqa"])
    with pytest.raises(NotFoundError, match="is not in the Model Registry"):
        stack.client.submit(model="models:/nobody/1", tasks=["digits_vqa"])
    with pytest.raises(InvalidRequestError, match="secret"):
        stack.client.submit(adapter="openai", model_args={"api_key": "sk-123"}, tasks=["digits_vqa"])
    assert len(stack.client.evaluations()) == before


def test_a_run_that_needs_gpus_says_that_nobody_has_them(stack: RunningStack) -> None:
    answer = stack.client.submit(model="models:/nearest-centroid/1", tasks=["digits_vqa"], gpus=2)
    assert "no worker with 2 GPUs is listening" in answer["warnings"][0]
    assert stack.client.cancel(answer["run_id"])["state"] == "cancelled"
    with pytest.raises(ConflictError, match="already ended"):
        stack.client.cancel(answer["run_id"])
