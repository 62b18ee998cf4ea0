"""Slices, trends and changes over HTTP, on the command line and as data frames."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import Any

import pytest
import requests
from app_client import talk_to
from evaluation_world import Seeded
from flask.testing import FlaskClient
from mlflow_process import ADMIN, ALICE, BOB, MlflowProcess

import mlflow_lmms
from mlflow_lmms.cli.main import run
from mlflow_lmms.names import MetricName, Tag

API = "/lmms/api/v1"


@pytest.fixture
def visitor(seeded: Seeded) -> FlaskClient:
    """Somebody who calls the API."""
    return seeded.world.app().test_client()


def get(visitor: FlaskClient, path: str, status: int = 200) -> dict[str, Any]:
    answer = visitor.get(f"{API}{path}")
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


@pytest.fixture
def command_line(visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands talk to the app under test."""
    talk_to(visitor, monkeypatch)


def test_slices_of_a_run_and_of_two(seeded: Seeded, visitor: FlaskClient) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    found = get(visitor, f"/slices?run={one}")
    assert [task["task"] for task in found["tasks"]] == ["digits_robust", "digits_vqa"]
    told = found["tasks"][1]
    assert told["dimensions"], "digits_vqa cuts its documents"
    for dimension in told["dimensions"]:
        assert sum(group["n"] for group in dimension["groups"]) <= told["n"]
    changed = get(visitor, f"/slices?run={two}&against={one}&task=digits_vqa")
    assert (changed["tasks"][0]["baseline"]["run_id"], len(changed["tasks"])) == (one, 1)


def test_what_slices_are_asked_for_is_checked(seeded: Seeded, visitor: FlaskClient) -> None:
    one = seeded.finished["centroid"]
    assert "run" in get(visitor, "/slices", 400)["error"]["message"]
    assert "no result of mme" in get(visitor, f"/slices?run={one}&task=mme", 404)["error"]["message"]
    asked = f"/slices?run={one}&task=digits_vqa&dimension=colour"
    assert "no dimension colour" in get(visitor, asked, 404)["error"]["message"]
    for path in (f"/slices?run={'0' * 32}", f"/slices?run={one}&against={'0' * 32}"):
        get(visitor, path, 404)


def test_a_trend_and_changes(seeded: Seeded, visitor: FlaskClient) -> None:
    name = seeded.model.removeprefix("models:/").partition("/")[0]
    found = get(visitor, f"/trend?model={name}")
    assert {task["task"] for task in found["tasks"]} <= {"digits_robust", "digits_vqa"}
    assert all(task["points"] for task in found["tasks"])
    changes = get(visitor, "/changes?since=0")["changes"]
    assert {"new"} <= {change["verdict"] for change in changes}
    assert get(visitor, "/changes?since=0&until=1")["changes"] == []
    assert get(visitor, "/changes?since=0&experiment=none")["changes"] == []


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/trend", 400, "model: expected"),
        ("/trend?model=m&over=size", 400, "version or time"),
        ("/trend?model=nobody", 404, "no result of model 'nobody'"),
        ("/changes", 400, "since"),
        ("/changes?since=9&until=1", 400, "before until"),
        ("/changes?since=x", 400, "unix seconds"),
        ("/changes?since=1&until=inf", 400, "until: expected a time in unix seconds, got 'inf'"),
        ("/leaderboard?tag=x", 400, "board: tag: expected key=value, got 'x'"),
    ],
)
def test_what_trends_are_asked_for_is_checked(visitor: FlaskClient, path: str, status: int, words: str) -> None:
    assert words in get(visitor, path, status)["error"]["message"]


@pytest.mark.usefixtures("command_line")
def test_slices_and_trends_on_the_command_line_and_as_data_frames(
    seeded: Seeded, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    name = seeded.model.removeprefix("models:/").partition("/")[0]

    def said(*words: str, code: int = 0) -> str:
        assert run(list(words)) == code
        shown = capsys.readouterr()
        return shown.out + shown.err

    shown = said("slices", one, "--task", "digits_vqa")
    assert "gap to the rest" in shown
    assert re.search(r"\[0?\.?\d+.*, \d", shown)
    assert "change of its gap" in said("slices", two, "--against", one, "--task", "digits_vqa")
    told = json.loads(said("slices", one, "--task", "digits_vqa", "--format", "json"))
    frame = mlflow_lmms.slices(one, tasks=["digits_vqa"])
    assert len(frame) == sum(len(dimension["groups"]) for dimension in told["tasks"][0]["dimensions"])
    assert {"dimension", "name", "n", "score", "rest_value", "rest_adjusted"} <= set(frame.columns)
    assert "score" in said("trend", name)
    points = mlflow_lmms.trend(name)
    assert {"task", "version", "value", "breaks", "change_verdict"} <= set(points.columns)
    assert "verdict" in said("changes", "--since", "4w")
    assert (
        json.loads(said("changes", "--since", "2001-01-01", "--until", "2001-02-01", "--format", "json"))["changes"]
        == []
    )
    assert "how long ago" in said("changes", "--since", "soon", code=2)


@pytest.mark.usefixtures("command_line")
def test_slices_and_trends_come_in_every_form(seeded: Seeded, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    name = seeded.model.removeprefix("models:/").partition("/")[0]

    def said(*words: str) -> str:
        assert run(list(words)) == 0
        return capsys.readouterr().out

    for asked, frame in (
        (("slices", one), mlflow_lmms.slices(one)),
        (("slices", two, "--against", one), mlflow_lmms.slices(two, against=one)),
        (("trend", name), mlflow_lmms.trend(name)),
        (("changes", "--since", "2001-01-01"), mlflow_lmms.changes(0.0)),
    ):
        table = list(csv.DictReader(io.StringIO(said(*asked, "--format", "csv"))))
        assert len(table) == len(frame) > 0
        assert list(table[0]) == list(frame.columns)
        assert said(*asked, "--format", "markdown").startswith("## ")
        assert r"\begin{tabular}" in said(*asked, "--format", "latex")


def scored_run(server: MlflowProcess, experiment: str, model: str) -> tuple[str, str]:
    """An experiment with a finished run that some program gave a result of the task ``secret_task``."""
    experiment_id, run_id = server.new_run(experiment)
    task, now = "secret_task", int(time.time() * 1000)
    name = MetricName(task, "acc")
    values = {str(name): 0.5, str(name.of("n")): 50.0, str(name.of("ci_low")): 0.4, str(name.of("ci_high")): 0.6}
    primary = {"metric": "acc", "filter": "none", "higher_is_better": True, "recorded_at": now / 1000}
    tags = {Tag.MODEL: model, Tag.STATE: "finished", Tag.TASKS: task, Tag.primary(task): json.dumps(primary)}
    batch = {
        "run_id": run_id,
        "metrics": [{"key": key, "value": value, "timestamp": now, "step": 0} for key, value in values.items()],
        "tags": [{"key": str(key), "value": value} for key, value in tags.items()],
    }
    for path, body in (
        ("/api/2.0/mlflow/runs/log-batch", batch),
        ("/api/2.0/mlflow/runs/update", {"run_id": run_id, "status": "FINISHED"}),
        (f"{API}/runs/{run_id}/index", {}),
    ):
        requests.post(f"{server.url}{path}", json=body, auth=ADMIN, timeout=30).raise_for_status()
    return experiment_id, run_id


def test_nothing_of_hidden_runs_is_told_by_any_analysis(auth_server: MlflowProcess) -> None:
    hidden, first = scored_run(auth_server, "analysed and hidden", "hidden-model")
    other, second = scored_run(auth_server, "analysed and hidden, too", "hidden-model")
    for experiment in (hidden, other):
        auth_server.permit(experiment, ALICE, "READ")
        auth_server.permit(experiment, BOB, "DENY")

    def ask(user: tuple[str, str] | None, path: str) -> requests.Response:
        return requests.get(f"{auth_server.url}{API}{path}", auth=user, timeout=30)

    lists = ("/leaderboard", f"/leaderboard?experiment={hidden}", "/leaderboard?costs=1&tag=a=b", "/changes?since=1")
    for path in lists:
        assert "hidden-model" not in ask(BOB, path).text and "secret_task" not in ask(BOB, path).text
    assert all("hidden-model" in ask(ALICE, path).text for path in (lists[0], lists[1], lists[3]))
    for path in (
        "/trend?model=hidden-model",
        f"/slices?run={first}",
        f"/slices?run={first}&against={second}",
        f"/comparison?run={first}&run={second}",
        f"/comparability?first={first}&second={second}",
        f"/comparison/flips?baseline={first}&candidate={second}&task=secret_task",
        f"/comparison/config?run={first}&run={second}",
    ):
        assert ask(None, path).status_code == 401
        refused = ask(BOB, path)
        assert refused.status_code == 404 and "may not" in refused.text, path
    assert ask(ALICE, "/trend?model=hidden-model").json()["tasks"][0]["task"] == "secret_task"
    assert ask(ALICE, f"/comparison?run={first}&run={second}").status_code == 200
