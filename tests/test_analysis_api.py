"""Slices, trends and changes over HTTP, on the command line and as data frames."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from app_client import talk_to
from evaluation_world import Seeded
from flask.testing import FlaskClient

import mlflow_lmms
from mlflow_lmms.cli.main import run

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
