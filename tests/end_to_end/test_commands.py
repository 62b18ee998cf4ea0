"""The commands for evaluations and models against a running stack, as a person and as a script would use them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from running_stack import RunningStack

from mlflow_lmms.cli.main import run

pytestmark = pytest.mark.lmms_eval

Captured = pytest.CaptureFixture[str]
MODEL = "models:/k-nearest-neighbours/1"


@pytest.fixture(autouse=True)
def _found(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.url)
    monkeypatch.setenv("MLFLOW_LMMS_DATA_FOLDER", str(stack.data))
    monkeypatch.setenv("COLUMNS", "200")


def as_json(capsys: Captured, *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*words, "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_smoke_run_shows_prompt_picture_response_and_answer(stack: RunningStack, capsys: Captured) -> None:
    assert run(["submit", "--model", MODEL, "--tasks", "digits_vqa", "--smoke", "2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"queued [0-9a-f]{32} .*" + re.escape(f"{stack.url}/lmms/evaluations/"), shown)
    assert shown.count("digits_vqa · document") == 2
    for word in ("prompt", "picture", "response", "answer", "expected", "score"):
        assert len(re.findall(rf"│ {word} ", shown)) == 2, word
    for path in re.findall(r"\S+\.png", shown):
        assert Path(path).read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def small(stack: RunningStack) -> str:
    """A short evaluation that has finished."""
    run_id = stack.submit(tasks=["digits_vqa"], limit=8, run_name="small")
    assert stack.wait(run_id)["state"] == "finished"
    return run_id


def test_a_script_waits_and_gets_the_evaluation_as_json(capsys: Captured) -> None:
    words = ["submit", "--model", MODEL, "--tasks", "digits_vqa", "--limit", "4", "--seed", "7", "--wait"]
    ended = as_json(capsys, *words)
    assert ended["state"] == "finished"
    assert ended["request"]["seeds"]["torch"] == 7
    assert ended["tasks"][0]["samples"] == 4


def test_a_failed_evaluation_that_was_waited_for_is_an_exit_code(capsys: Captured) -> None:
    ended = as_json(capsys, "submit", "--model", MODEL, "--tasks", "missing_dataset", "--wait", code=1)
    assert ended["tasks"][0]["failure"] == "dataset"


def test_a_yaml_of_lmms_eval_is_taken_and_options_win(tmp_path: Path, capsys: Captured) -> None:
    config = tmp_path / "evaluation.yaml"
    config.write_text(f"model: {MODEL}\ntasks: digits_vqa\nlimit: 50\nseed: 3\nlog_samples: true\n")
    submitted = as_json(capsys, "submit", "--config", str(config), "--limit", "2")
    request = as_json(capsys, "status", submitted["run_id"])["request"]
    assert (request["limit"], request["seeds"]["python"]) == (2, 3)
    as_json(capsys, "cancel", submitted["run_id"])


def test_status_lists_evaluations_and_shows_one(small: str, capsys: Captured) -> None:
    assert small in {evaluation["run_id"] for evaluation in as_json(capsys, "status", "--limit", "50")}
    assert run(["status", "--limit", "50"]) == 0
    assert re.search(rf"{small} +k-nearest-neighbours v1 +digits_vqa +finished +1/1", capsys.readouterr().out)
    assert run(["status", small]) == 0
    shown = capsys.readouterr().out
    assert "python -m lmms_eval --model digits" in shown
    assert re.search(r"digits_vqa +finished +1 +8 +exact_match", shown)


def test_an_unknown_run_is_said_as_such(capsys: Captured) -> None:
    for command in ("status", "logs", "cancel", "retry"):
        assert run([command, "0" * 32]) == 1
        assert f"evaluation {'0' * 32} does not exist" in capsys.readouterr().err


def test_logs_are_shown_filtered_and_followed(small: str, capsys: Captured) -> None:
    lines = as_json(capsys, "logs", small)
    assert {"time", "level", "message"} <= lines[0].keys()
    assert run(["logs", small, "--follow", "--format", "json"]) == 0
    followed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["message"] for line in followed} >= {line["message"] for line in lines[:3]}
    word = lines[0]["message"].split()[0]
    assert all(word.lower() in line["message"].lower() for line in as_json(capsys, "logs", small, "--search", word))
    assert run(["logs", small]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(lines)


def test_cancel_and_retry(stack: RunningStack, capsys: Captured) -> None:
    run_id = stack.submit(tasks=["digits_robust"])
    assert run(["cancel", run_id]) == 0
    assert stack.wait(run_id)["state"] == "cancelled"
    assert as_json(capsys, "retry", run_id)["tasks"] == ["digits_robust"]
    assert run(["cancel", run_id]) == 0
    assert stack.wait(run_id)["state"] == "cancelled"


def test_the_leaderboard_is_a_table_with_intervals(small: str, capsys: Captured) -> None:
    board = as_json(capsys, "leaderboard", "--suite", "digits_vqa", "--partial")
    assert board["rows"][0]["cells"]["digits_vqa"]["n"] > 0
    assert run(["leaderboard", "--suite", "digits_vqa", "--partial"]) == 0
    assert re.search(r"k-nearest-neighbours v1 .* [01]\.\d{3} \[[01]\.\d{3}, [01]\.\d{3}\]", capsys.readouterr().out)


def test_a_model_is_registered_shown_and_found_again(tmp_path: Path, capsys: Captured) -> None:
    checkpoint = tmp_path / "step-20"
    checkpoint.mkdir()
    (checkpoint / "weights.bin").write_bytes(b"weights")
    words = [
        "--adapter",
        "qwen2_5_vl",
        "--model-args",
        "dtype=float16",
        "--checkpoint",
        str(checkpoint),
        "--step",
        "20",
    ]
    made = as_json(capsys, "model", "register", "my-model", *words)
    assert made["uri"] == "models:/my-model/1"
    shown = as_json(capsys, "model", "show", "models:/my-model/1")
    assert shown["resolved"]["model_args"] == {"dtype": "float16", "pretrained": str(checkpoint)}
    assert shown["tags"]["lmms.step"] == "20"
    assert len(shown["tags"]["lmms.content"]) == 64
    assert run(["model", "show", "models:/my-model/1"]) == 0
    assert "qwen2_5_vl" in capsys.readouterr().out
    assert run(["model", "show", "models:/my-model/9"]) == 1
    assert "has the versions 1" in capsys.readouterr().err


def test_a_secret_in_the_arguments_of_a_model_is_refused(capsys: Captured) -> None:
    words = ["--adapter", "openai", "--model-args", "api_key=sk-0123456789abcdefghij"]
    assert run(["model", "register", "leaky", *words]) == 2
    shown = capsys.readouterr().err
    assert "secret" in shown
    assert "sk-0123456789abcdefghij" not in shown


def test_the_doctor_finds_nothing_to_mend(capsys: Captured) -> None:
    assert run(["doctor"]) == 0, capsys.readouterr().out
