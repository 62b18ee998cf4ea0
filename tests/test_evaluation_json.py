"""An evaluation as JSON, and the bare command that does the same."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from mlflow_lmms.evaluation import Evaluation, PartStatus, TaskStatus
from mlflow_lmms.evaluation_json import command_line, evaluation_json
from mlflow_lmms.planner.fleet import Cause, Wait
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import ResolvedModel


def evaluation(model: dict[str, Any] | None = None, **request: Any) -> Evaluation:
    asked = EvaluationRequest.parse({"adapter": "dummy", "tasks": ["a", "b"]} | request)
    about: dict[str, Any] = {
        "label": "m v1", "name": "m", "version": "1", "adapter": "dummy", "model_args": asked.model_args, "gpus": 0,
    }  # fmt: skip
    failed = TaskStatus("a", "0", State.FAILED, 2, 1, FailureClass.JUDGE, "m", "l", 1.0, 2.0, None, None, None)
    return Evaluation(
        "run", "1", "name", "m v1", "suite", asked, ResolvedModel(**about | (model or {})), State.FAILED, "normal",
        "ada", 0.5, 1.0, 2.0, False, (failed,), (PartStatus("0", 0, 7, "box", "cpu0", (), 1.0, 1.0),),
    )  # fmt: skip


def options(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return {word: words[at + 1] for at, word in enumerate(words) if word.startswith("--") and at + 1 < len(words)}


def test_it_says_why_it_waits() -> None:
    wait = Wait("run-0", Cause.BUSY, "waits for a GPU: all that suit are taken")
    told = json.loads(json.dumps(evaluation_json(evaluation(), position=1, wait=wait)))["wait"]
    assert told == {"cause": "busy", "reason": "waits for a GPU: all that suit are taken"}


def test_it_is_plain_values() -> None:
    found = json.loads(json.dumps(evaluation_json(evaluation(), position=3)))
    assert (found["state"], found["worker"], found["position"]) == ("failed", "box/cpu0", 3)
    assert found["tasks"] == [
        {
            "task": "a", "part": "0", "state": "failed", "attempt": 2, "automatic_retries": 1, "failure": "judge",
            "message": "m", "log_tail": "l", "started_at": 1.0, "ended_at": 2.0, "samples": None, "metric": None,
            "score": None, "retries": {},
        }
    ]  # fmt: skip
    assert found["wait"] is None
    assert EvaluationRequest.parse(found["request"]).tasks == ("a", "b")


def test_the_command_says_what_was_asked_for() -> None:
    asked = evaluation(
        model_args="pretrained=org/m x,dtype=float16",
        limit=8,
        offset=2,
        batch_size=4,
        num_fewshot=0,
        gen_kwargs={"temperature": 0},
        repeats=2,
        seeds={"python": 1, "numpy": 2, "torch": 3, "fewshot": 4},
    )
    command = command_line(asked)
    assert command.startswith("python -m lmms_eval --model dummy ")
    assert options(command) == {
        "--model": "dummy",
        "--model_args": "pretrained=org/m x,dtype=float16",
        "--tasks": "a,b",
        "--batch_size": "4",
        "--limit": "8",
        "--offset": "2",
        "--num_fewshot": "0",
        "--gen_kwargs": "temperature=0",
        "--repeats": "2",
        "--seed": "1,2,3,4",
        "--output_path": "results",
    }


def test_what_was_left_to_lmms_eval_is_left_out() -> None:
    assert set(options(command_line(evaluation()))) == {
        "--model",
        "--tasks",
        "--batch_size",
        "--seed",
        "--output_path",
    }


@pytest.mark.parametrize("smoke", [None, 3])
def test_a_smoke_run_is_a_limit(smoke: int | None) -> None:
    assert options(command_line(evaluation(smoke=smoke))).get("--limit") == (str(smoke) if smoke else None)


def test_a_model_with_files_is_downloaded_first() -> None:
    model = {"name": "my model", "artifact_uri": "mlflow-artifacts:/1/x", "artifact_argument": "path"}
    download, run = command_line(evaluation(model)).split(" && ")
    assert download == "mlflow artifacts download -u 'models:/my model/1' -d MODEL_FOLDER"
    assert options(run)["--model_args"] == "path=MODEL_FOLDER"
