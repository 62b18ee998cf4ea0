"""`fleet`, `rescore` and a pasted command on the command line, against a real server."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from io import StringIO
from typing import Any

import fleet_world
import pytest
import redis
from click.testing import CliRunner
from mlflow_process import ADMIN, ALICE, MlflowProcess
from rich.console import Console

from mlflow_lmms.cli.fleet_tables import fleet_tables
from mlflow_lmms.cli.main import run
from mlflow_lmms.client import Client
from mlflow_lmms.http import Credentials


@pytest.fixture
def server(open_server: MlflowProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowProcess]:
    """A server with a made-up fleet, which commands find."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", open_server.url)
    with redis.Redis.from_url(open_server.redis_url) as connection:
        fleet_world.announce_fleet(connection, version("mlflow-lmms"))
        yield open_server
        fleet_world.clear(connection)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a command prints, on either stream."""
    capsys.readouterr()
    found = run(arguments)
    captured = capsys.readouterr()
    assert found == code, captured
    return captured.out + captured.err


def test_the_fleet_is_shown_as_tables_and_as_json(server: MlflowProcess, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "fleet")
    for words in ("dgx-01", "93 %", "62.0 of 80 GiB", "others use 50.0 GiB", "GPU is lost", "offline", "nvlink"):
        assert words in text, words
    for option in (("--json",), ("--format", "json")):
        content = json.loads(told(capsys, "fleet", *option))
        assert {box["name"] for box in content["boxes"]} >= {"dgx-01", "older-02", "gone-03"}


def test_a_box_is_paused_drained_resumed_and_forgotten(
    server: MlflowProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    def state(box: str) -> str | None:
        boxes = {found["name"]: found["state"] for found in Client().fleet()["boxes"]}
        found: str | None = boxes.get(box)
        return found

    assert "takes no new work" in told(capsys, "fleet", "pause", "dgx-01", "--reason", "a fan is broken")
    assert state("dgx-01") == "paused" and "a fan is broken" in told(capsys, "fleet")
    told(capsys, "fleet", "drain", "dgx-01")
    assert state("dgx-01") == "drained"
    assert json.loads(told(capsys, "fleet", "resume", "dgx-01", "--format", "json"))["state"] == "open"
    assert state("dgx-01") == "open"
    assert "connected" in told(capsys, "fleet", "forget", "dgx-01", code=1)
    told(capsys, "fleet", "forget", "gone-03")
    assert state("gone-03") is None
    assert "there are" in told(capsys, "fleet", "pause", "nowhere", code=1)


def test_quotas_are_set_and_taken_back(server: MlflowProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no limit" in told(capsys, "fleet", "quota")
    assert "40.5" in told(capsys, "fleet", "quota", "alice", "--gpus", "2", "--gpu-hours", "40.5")
    told(capsys, "fleet", "quota", "--default", "--gpus", "8")
    content = json.loads(told(capsys, "fleet", "quota", "--format", "json"))
    assert content["default"]["gpus"] == 8 and content["users"]["alice"]["gpus"] == 2
    assert "alice" not in told(capsys, "fleet", "quota", "alice", "--remove")
    told(capsys, "fleet", "quota", "--default", "--no-limit")
    assert json.loads(told(capsys, "fleet", "quota", "--format", "json"))["default"]["gpus"] is None


@pytest.mark.parametrize(
    "options", ["alice", "--gpus 2", "alice --default --gpus 2", "alice --gpus 2 --remove", "--default --remove"]
)
def test_a_quota_that_is_not_clear_is_refused(capsys: pytest.CaptureFixture[str], options: str) -> None:
    assert "name a user or --default" in told(capsys, "fleet", "quota", *options.split(), code=2)


def test_use_is_shown_also_where_nothing_ran(server: MlflowProcess, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(told(capsys, "fleet", "use", "--by", "box", "--format", "json"))
    assert (content["by"], content["days"]) == ("box", 30)
    assert told(capsys, "fleet", "use").strip()


def test_users_who_are_no_administrators_are_told_so(auth_server: MlflowProcess) -> None:
    client = Client(auth_server.url, Credentials(*ALICE))
    assert client.fleet()["queue"] is not None
    with pytest.raises(Exception, match="alice is no administrator"):
        client.change_box("dgx-01", "drain")
    with pytest.raises(Exception, match="no box is called 'nowhere'"):
        Client(auth_server.url, Credentials(*ADMIN)).change_box("nowhere", "drain")


def test_a_pasted_command_is_submitted(server: MlflowProcess, capsys: pytest.CaptureFixture[str]) -> None:
    command = "python -m lmms_eval --model dummy --tasks mme --limit 4 --output_path ./logs"
    text = told(capsys, "submit", "--priority", "high", "--", *shlex.split(command))
    assert "left out: --output_path: the MLflow run keeps" in text and "queued" in text
    newest = Client().evaluations(limit=1)[0]
    assert (newest["request"]["adapter"], newest["request"]["limit"], newest["priority"]) == ("dummy", 4, "high")
    Client().cancel(newest["run_id"])
    answer = Client().submit_command("lmms-eval --model dummy --tasks mme --verbosity DEBUG", limit=2)
    assert answer["left_out"] == ["--verbosity: it changes only what is printed"]
    assert Client().evaluation(answer["run_id"])["request"]["limit"] == 2
    Client().cancel(answer["run_id"])
    assert "evaluates nothing" in told(capsys, "submit", "lmms-eval", "tasks", "list", code=2)


def test_what_never_finished_cannot_be_scored_again(
    server: MlflowProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = Client().submit(adapter="dummy", tasks=["mme"])["run_id"]
    assert "finished" in told(capsys, "rescore", run_id, code=1)
    Client().cancel(run_id)
    told(capsys, "rescore", "0" * 32, code=1)


def test_runs_of_others_and_unknown_values_are_drawn_too() -> None:
    unknown: dict[str, Any] = dict.fromkeys(("run_id", "part", "name", "user", "memory", "since", "estimated_s"))
    gpu = dict.fromkeys(("index", "free", "utilisation", "temperature", "power_w", "problem"))
    card = {
        **gpu,
        "uuid": "GPU-1",
        "name": "[red]A card",
        "memory": 0,
        "foreign": 0,
        "is_slice": True,
        "usable": True,
    }
    box = {
        "name": "b[x]", "state": "paused", "reason": "why", "changed_by": "root", "changed_at": 1.0, "seen_at": 2.0,
        "version": "1", "protocol": 2, "warning": None, "cpu_slots": 1, "gpu_slots": 1, "labels": [],
        "environments": [], "shares_gpus": False, "until": 100.0, "gpus": [card],
    }  # fmt: skip
    lease = {**unknown, "box": "b[x]", "slot": "gpu-0", "gpus": ["GPU-1"]}
    waits = {**unknown, "place": 1, "gpus": 2, "priority": "low", "queued_at": 1.0, "cause": "busy", "reason": None}
    kept = {**unknown, "box": "b[x]", "gpus": ["GPU-1"], "since": 1.0, "drain_at": 2.0, "expected_at": 90.0}
    fleet = {"at": 10.0, "boxes": [box], "leases": [lease], "queue": [waits], "reservation": kept}
    out = Console(width=200, record=True, file=StringIO())
    out.print(fleet_tables(fleet))
    text = out.export_text()
    for words in ("b[x]", "[red]A card (slice)", "another's", "paused by root: why", "ends in 1:30 min", "busy"):
        assert words in text, words
    assert "mlflow-lmms worker" in str(fleet_tables({**fleet, "boxes": [], "queue": []}))


def test_help_lists_what_may_be_done_with_the_fleet() -> None:
    from mlflow_lmms.cli.fleet import fleet

    text = CliRunner().invoke(fleet, ["--help"]).output
    for word in ("pause", "drain", "resume", "forget", "use", "quota", "--watch", "--json"):
        assert word in text
