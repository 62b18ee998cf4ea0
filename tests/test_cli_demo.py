"""The demonstration's parts: what it needs, that models are registered once, and what it says when one fails."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from core_services import look_models_up_at
from mlflow import MlflowClient
from rich.console import Console

from mlflow_lmms import demo
from mlflow_lmms.cli import demo as command
from mlflow_lmms.cli.main import run
from mlflow_lmms.local_stack import LocalStack
from mlflow_lmms.registry import find_version
from mlflow_lmms.settings import Settings

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("words", [["demo", "--exit"], ["up"]])
def test_what_is_not_installed_is_named_before_anything_starts(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "lmms_eval" else object())
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "lmms-eval not installed" in said
    assert "pip install 'mlflow-lmms[local]'" in said
    assert list(tmp_path.iterdir()) == []


def test_the_digits_are_added_to_the_task_folders_once(tmp_path: Path) -> None:
    settings = Settings(task_folders=(tmp_path,))
    once = demo.with_digits(settings)
    assert once.task_folders[0] == tmp_path
    assert (once.task_folders[1] / "digits.yaml").exists()
    assert demo.with_digits(once) == once


def test_models_are_registered_once_and_again_only_when_their_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    look_models_up_at(uri, monkeypatch)
    client = MlflowClient(uri)
    client.create_experiment("lmms-models", artifact_location=str(tmp_path / "artifacts"))
    trained = demo.train_models(tmp_path / "models")
    assert len(trained) == 3
    first = demo.register_models(client, trained)
    assert list(first.values()) == [True, True, True]
    assert demo.register_models(client, demo.train_models(tmp_path / "again")) == dict.fromkeys(first, False)
    assert find_version(client, next(iter(first))).tags["lmms.gpus"] == "0"
    name, files = next(iter(trained.items()))
    (files / "note.txt").write_text("changed")
    assert demo.register_models(client, {name: files}) == {f"models:/{name}/2": True}


def test_a_failure_is_told_once_for_all_tasks_that_share_it(tmp_path: Path) -> None:
    tasks: list[dict[str, Any]] = [
        {"task": name, "state": "failed", "failure": "model_load", "message": "no such file"}
        for name in ("digits_vqa", "digits_sum")
    ]
    tasks.append({"task": "digits_parity", "state": "finished", "failure": None, "message": None})
    ended: list[dict[str, Any]] = [
        {"model": "knn v1", "state": "failed", "tasks": tasks},
        {"model": "b", "state": "finished", "tasks": []},
    ]
    out = io.StringIO()
    command._say_why(ended, Console(file=out, width=200), LocalStack(Settings(data_folder=tmp_path), 0, print))
    assert out.getvalue().splitlines() == [
        "knn v1 · digits_vqa, digits_sum: model_load: no such file",
        f"Logs: {tmp_path / 'logs'}",
    ]


def test_no_browser_is_opened_without_a_display(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    stack = LocalStack(Settings(data_folder=tmp_path), 0, print)
    stack.url = "http://127.0.0.1:5000"
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    command._open_browser(stack, "abc")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    command._open_browser(stack, "abc")
    assert opened == ["http://127.0.0.1:5000/lmms/evaluations/abc"]
