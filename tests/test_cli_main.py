"""The command line's frame: quick help, one place for errors, commands of entry points, an option for every field."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from mlflow_lmms.cli import main as frame
from mlflow_lmms.cli.main import COMMANDS, cli, run
from mlflow_lmms.cli.submit import submit
from mlflow_lmms.errors import InvalidRequestError, LmmsError, UnavailableError
from mlflow_lmms.request import EvaluationRequest

Captured = pytest.CaptureFixture[str]


def test_every_command_is_listed_and_explains_itself(capsys: Captured) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in listed
        assert run([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: mlflow-lmms {name}")


def test_help_does_not_import_mlflow() -> None:
    code = "import sys; from mlflow_lmms.cli.main import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "mlflow_lmms.cli.main" in modules
    assert not modules & {"mlflow", "torch", "numpy", "lmms_eval", "sqlalchemy", "flask"}


def test_every_field_of_a_request_has_an_option() -> None:
    options = {name for parameter in submit.params for name in parameter.opts}
    renamed = {"seeds": "--seed", "suite_revision": "--suite"}
    for field in EvaluationRequest.model_fields:
        assert renamed.get(field, f"--{field.replace('_', '-')}") in options, field


@pytest.mark.parametrize("error", [InvalidRequestError("bad"), UnavailableError("away"), LmmsError("other")])
def test_an_error_of_ours_is_a_message_and_its_exit_code(
    error: LmmsError, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, monkeypatch)
    assert run(["config"]) == error.exit_code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {error}\n"
    assert run(["config", "--format", "json"]) == error.exit_code
    told = json.loads(capsys.readouterr().err)["error"]
    assert told == {"class": type(error).__name__, "message": str(error), "exit_code": error.exit_code}


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def explain() -> None:
        raise error

    monkeypatch.setattr("mlflow_lmms.settings.Settings.explain", explain)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError(), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        run(["config"])


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert run(["config"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_option_names_itself(capsys: Captured) -> None:
    assert run(["status", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err


def test_a_server_that_is_away_is_said_with_the_remedy(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for command in (["status"], ["leaderboard"], ["cancel", "x"], ["retry", "x"], ["logs", "x"], ["logs", "-f", "x"]):
        assert run(command) == UnavailableError.exit_code
        assert "mlflow-lmms up" in capsys.readouterr().err


def test_commands_of_entry_points_stand_beside_ours(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    point = EntryPoint("extra", "tests.extra:extra", frame.ENTRY_POINTS)

    @click.command("extra")
    def extra() -> None:
        """An extra command."""
        click.echo("ran")

    monkeypatch.setattr(EntryPoint, "load", lambda self: extra)
    monkeypatch.setattr(frame, "entry_points", lambda group, name=None: [point] if name in (None, "extra") else [])
    assert "extra" in cli.list_commands(click.Context(cli))
    assert run(["--help"]) == 0
    assert "An extra command." in capsys.readouterr().out
    assert run(["extra"]) == 0
    assert capsys.readouterr().out == "ran\n"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mlflow_lmms.cli", "config"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.stderr == ""


def test_interrupting_the_program_prints_no_traceback() -> None:
    code = (
        "import time, mlflow_lmms.settings as s\n"
        "def wait():\n  print('waiting', flush=True); time.sleep(60)\n"
        "s.Settings.explain = wait\n"
        "from mlflow_lmms.cli.main import main; main(['config'])\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    began = time.monotonic()
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=20)
    assert program.returncode == 130
    assert "Traceback" not in errors
    assert time.monotonic() - began < 10


def test_config_shows_each_setting_its_source_and_no_password(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_LMMS_REDIS_URL", "redis://:hidden@queue:6379/0")
    assert run(["config", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["redis_url"]["value"] == "redis://:***@queue:6379/0"
    assert "environment" in told["redis_url"]["source"]
    assert told["cpu_slots"]["source"] == "default"
    assert run(["config"]) == 0
    shown = capsys.readouterr().out
    assert "MLFLOW_LMMS_REDIS_URL" in shown
    assert "hidden" not in shown


def test_a_wrong_setting_is_said_once(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_LMMS_CPU_SLOTS", "many")
    assert run(["config"]) == 2
    assert "cpu_slots" in capsys.readouterr().err
