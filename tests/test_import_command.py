"""`mlflow-lmms import` and `link` as a user runs them: tables, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_process import MlflowProcess
from output_folders import sound, write_results

from mlflow_lmms.cli.main import run
from mlflow_lmms.names import Tag
from mlflow_lmms.registry import ModelDescription, register_model

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def store(mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commands write to the store that MLFLOW_TRACKING_URI names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    return mlflow_uri


def told(capsys: Captured, *arguments: str | Path, code: int = 0) -> Any:
    """What the command answers as JSON."""
    assert run([*map(str, arguments), "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_table_of_what_was_done(capsys: Captured, tmp_path: Path) -> None:
    sound(tmp_path / "outputs" / "a")
    assert run(["import", str(tmp_path / "outputs")]) == 0
    shown = capsys.readouterr().out
    assert "imported" in shown
    assert "Qwen/Qwen2-VL-2B-Instruct · my_vqa" in shown
    assert " a/2" in shown, "runs of one name are told apart by their files"
    assert shown.rstrip().endswith("1 imported")
    assert run(["import", str(tmp_path / "outputs")]) == 0
    assert capsys.readouterr().out.rstrip().endswith("1 already imported")


def test_json_tells_imported_skipped_refused_and_flagged(capsys: Captured, tmp_path: Path) -> None:
    sound(tmp_path / "a")
    bad = sound(tmp_path / "b")
    bad.write_text("{")
    write_results(tmp_path / "c", {"other": {"exact_match,none": 0.5}})
    (tmp_path / "eval_results.json").write_text("{}")
    report = told(capsys, "import", tmp_path, code=1)
    assert report["counts"] == {"imported": 2, "skipped": 1, "refused": 1}
    assert report["refused"] == [{"path": str(bad), "reason": "the JSON ends too early"}]
    by_folder = {Path(one["path"]).parent.name: one for one in report["files"]}
    assert by_folder["c"]["warnings"] == {"other": ["samples_missing"]}
    assert by_folder["a"]["samples"] == 10


def test_a_refused_samples_file_makes_the_exit_code(capsys: Captured, tmp_path: Path) -> None:
    path = sound(tmp_path)
    samples = next(path.parent.glob("*.jsonl"))
    samples.write_text("{")
    assert run(["import", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert f"refused {samples}: line 1: the JSON ends too early" in shown.replace("\n", "")


def test_options_are_those_of_an_evaluation(capsys: Captured, mlflow_client: MlflowClient, tmp_path: Path) -> None:
    sound(tmp_path)
    options = ["--experiment", "mine", "--suite", "nightly", "--primary", "my_vqa=exact_match", "--errored", "drop"]
    report = told(capsys, "import", tmp_path, *options)
    run_id = report["files"][0]["run_id"]
    tags = mlflow_client.get_run(run_id).data.tags
    assert tags[Tag.SUITE] == "nightly"
    assert json.loads(tags[Tag.primary("my_vqa")])["reason"] == "chosen by the user"
    assert mlflow_client.get_experiment_by_name("mine") is not None


def test_a_mapped_folder_without_results_is_said(
    capsys: Captured, mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    description = ModelDescription(adapter="qwen2_vl", model_args={"pretrained": "x"})
    register_model(mlflow_client, "qwen", description)
    sound(tmp_path / "outputs" / "a")
    options = ["--map", "a=models:/qwen/1", "--map", "aa=models:/qwen/1", "--dry-run", "--format", "json"]
    assert run(["import", str(tmp_path / "outputs"), *options]) == 0
    said = capsys.readouterr()
    assert said.err == "warning: --map aa: no results are in a folder of this name\n"
    assert json.loads(said.out)["files"][0]["model"] == "qwen v1"


def test_a_map_says_that_it_leaves_imported_runs_alone(
    capsys: Captured, mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    register_model(mlflow_client, "qwen", ModelDescription(adapter="qwen2_vl"))
    sound(tmp_path / "a")
    for note in (False, True):
        assert run(["import", str(tmp_path), "--map", "a=models:/qwen/1"]) == 0
        assert ("mlflow-lmms link" in capsys.readouterr().err) is note


def test_a_dry_run(capsys: Captured, mlflow_client: MlflowClient, tmp_path: Path) -> None:
    sound(tmp_path)
    report = told(capsys, "import", tmp_path, "--dry-run")
    assert report["counts"] == {"would be imported": 1}
    assert mlflow_client.get_experiment_by_name("lmms-eval") is None


def test_an_empty_folder_is_said(capsys: Captured, tmp_path: Path) -> None:
    assert run(["import", str(tmp_path)]) == 0
    assert "no results file of lmms-eval is there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder"),
        (["/no/such/folder"], "does not exist"),
        ([".", "--errored", "sometimes"], "errored"),
        ([".", "--primary", "nonsense"], "primary"),
        ([".", "--map", "a"], "--map takes"),
        (["--reported", "x.csv", "--dry-run"], "--dry-run goes with folders"),
    ],
)
def test_what_is_wrong_with_the_options(arguments: list[str], message: str, capsys: Captured, tmp_path: Path) -> None:
    assert run(["import", *arguments]) not in (0, 3)
    assert message in capsys.readouterr().err


def test_reported_scores_and_a_link(capsys: Captured, mlflow_client: MlflowClient, tmp_path: Path) -> None:
    table = tmp_path / "published.csv"
    table.write_text("model,task,score,source\na,mme,1890.5,paper A\nb,mme,,paper A\n")
    report = told(capsys, "import", "--reported", table, code=1)
    assert report["counts"] == {"imported": 1, "refused": 1}
    run_id = report["files"][0]["run_id"]
    register_model(mlflow_client, "a-model", ModelDescription(adapter="qwen2_vl", model_args={"pretrained": "a"}))
    assert told(capsys, "link", run_id, "models:/a-model/1") == {
        "run_id": run_id,
        "model": "a-model",
        "version": "1",
    }
    assert mlflow_client.get_run(run_id).data.tags[Tag.MODEL] == "a-model"


def test_a_server_that_is_away_is_said_at_once(
    capsys: Captured, tmp_path: Path, free_port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    sound(tmp_path)
    assert run(["import", str(tmp_path)]) == 3
    assert "does not answer" in capsys.readouterr().err


def test_over_http_the_boards_show_it_at_once(
    capsys: Captured, open_server: MlflowProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", open_server.url)
    sound(tmp_path / "outputs", "http_vqa")
    report = told(capsys, "import", tmp_path / "outputs", "--experiment", "over http")
    run_id = report["files"][0]["run_id"]
    experiment = MlflowClient(open_server.url).get_experiment_by_name("over http")
    assert experiment is not None
    board = told(capsys, "leaderboard", "--experiment", experiment.experiment_id)
    assert [column["task"] for column in board["columns"]] == ["http_vqa"]
    assert board["rows"][0]["model"] == "Qwen/Qwen2-VL-2B-Instruct"
    status = told(capsys, "status", run_id)
    assert (status["state"], status["tasks"][0]["score"]) == ("finished", 0.8)
