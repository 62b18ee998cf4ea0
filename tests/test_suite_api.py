"""Suites, comparability and the score index over HTTP and through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from app_client import talk_to
from evaluation_world import EvaluationWorld, Seeded
from flask.testing import FlaskClient
from mlflow_process import ADMIN, ALICE, BOB, MlflowProcess

import mlflow_lmms
from mlflow_lmms.cli.main import run
from mlflow_lmms.names import Tag

API = "/lmms/api/v1"
DIGITS = {
    "name": "letters",
    "tasks": [{"task": "digits_vqa", "primary": "exact_match", "weight": 2.0}, {"task": "digits_sum"}],
}


def put(visitor: FlaskClient, name: str, status: int, **body: Any) -> dict[str, Any]:
    answer = visitor.put(f"{API}/suites/{name}", json=body)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def get(visitor: FlaskClient, path: str, status: int = 200) -> dict[str, Any]:
    answer = visitor.get(f"{API}{path}")
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


@pytest.fixture
def visitor(seeded: Seeded) -> Iterator[FlaskClient]:
    """Somebody who calls the API where there are no suites."""
    yield seeded.world.app().test_client()
    with seeded.world.services.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM lmms_suite_revisions")
        connection.exec_driver_sql("DELETE FROM lmms_suites")


def test_a_suite_is_made_changed_and_read_in_every_form(visitor: FlaskClient) -> None:
    assert put(visitor, "letters", 201, suite=DIGITS, note="first")["revision"] == 1
    assert put(visitor, "letters", 200, suite=DIGITS)["made"] is False
    changed = "name: letters\ntasks:\n- digits_vqa\n"
    assert put(visitor, "letters", 201, yaml=changed, base=1)["revision"] == 2
    assert get(visitor, "/suites/letters?revision=1")["suite"] == DIGITS
    assert get(visitor, "/suites/letters")["yaml"] == changed
    assert [r["note"] for r in get(visitor, "/suites/letters/revisions")["revisions"]] == ["", "first"]
    (listed,) = get(visitor, "/suites")["suites"]
    assert (listed["name"], listed["revision"], listed["author"]) == ("letters", 2, None)
    file = visitor.get(f"{API}/suites/letters/yaml?revision=2")
    assert (file.text, file.mimetype) == (changed, "application/yaml")
    assert "letters-2.yaml" in file.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"suite": {"name": "other", "tasks": ["digits_vqa"]}}, 400, "the address names suite 'letters'"),
        ({"suite": {"name": "letters", "tasks": ["no_such_task"]}}, 400, "no_such_task"),
        ({"suite": {"name": "letters", "tasks": []}}, 400, "name at least one"),
        ({"yaml": "a: &x 1\nb: *x"}, 400, "aliases"),
        ({"yaml": "[" * 10_000}, 400, "nested deeper"),
        ({}, 400, "either as suite (an object) or as yaml"),
        ({"suite": DIGITS, "yaml": "x"}, 400, "either as suite"),
        ({"suite": DIGITS, "note": "n" * 3000}, 400, "note"),
        ({"suite": DIGITS, "author": "me"}, 400, "author"),
    ],
)
def test_a_suite_that_is_not_sound_is_refused(
    visitor: FlaskClient, body: dict[str, Any], status: int, words: str
) -> None:
    assert words in put(visitor, "letters", status, **body)["error"]["message"]
    assert get(visitor, "/suites")["suites"] == []


def test_what_is_not_there_or_has_moved_on_is_told(visitor: FlaskClient) -> None:
    for path in ("/suites/letters", "/suites/letters/revisions", "/suites/letters/yaml"):
        assert "no suite 'letters'" in get(visitor, path, 404)["error"]["message"]
    put(visitor, "letters", 201, suite=DIGITS)
    assert "its newest is 1" in get(visitor, "/suites/letters?revision=9", 404)["error"]["message"]
    assert "revision" in get(visitor, "/suites/letters?revision=x", 400)["error"]["message"]
    put(visitor, "letters", 201, suite=DIGITS | {"description": "d"})
    late = put(visitor, "letters", 409, suite=DIGITS, base=1)
    assert "at revision 2" in late["error"]["message"]


def test_a_suite_is_run_by_name_and_revision(seeded: Seeded, visitor: FlaskClient) -> None:
    put(visitor, "letters", 201, suite=DIGITS)
    body = {"model": seeded.model, "suite": "letters@1"}
    made = visitor.post(f"{API}/evaluations", json=body).get_json()
    found = get(visitor, f"/evaluations/{made['run_id']}")
    assert (found["suite"], found["suite_revision"]) == ("letters", 1)
    assert [task["task"] for task in found["tasks"]] == ["digits_vqa", "digits_sum"]
    seeded.world.services.lifecycle.cancel(made["run_id"])


def test_only_the_author_and_administrators_change_a_suite(auth_server: MlflowProcess) -> None:
    def call(user: tuple[str, str] | None, method: str, path: str, **more: Any) -> requests.Response:
        return requests.request(method, f"{auth_server.url}{API}{path}", auth=user, timeout=30, **more)

    def write(user: tuple[str, str] | None, *tasks: str) -> int:
        body = {"suite": {"name": "shared", "tasks": list(tasks)}}
        return call(user, "PUT", "/suites/shared", json=body).status_code

    assert write(None, "mme") == 401
    assert write(ALICE, "mme") == 201
    assert write(BOB, "ai2d") == 403
    assert write(ALICE, "ai2d") == 201
    assert write(ADMIN, "mme", "ai2d") == 201
    assert call(BOB, "GET", "/suites/shared").json()["author"] == ALICE[0]
    assert call(None, "GET", "/suites").status_code == 401
    made_by = [r["created_by"] for r in call(BOB, "GET", "/suites/shared/revisions").json()["revisions"]]
    assert made_by == [ADMIN[0], ALICE[0], ALICE[0]]


def test_indexing_a_run_and_comparing_runs_ask_for_permission(auth_server: MlflowProcess) -> None:
    experiment, run_id = auth_server.new_run("private results")
    auth_server.permit(experiment, ALICE, "EDIT")
    auth_server.permit(experiment, BOB, "DENY")
    index = f"{auth_server.url}{API}/runs/{run_id}/index"
    compare = f"{auth_server.url}{API}/comparability?first={run_id}&second={run_id}"
    assert requests.post(index, json={}, auth=ALICE, timeout=30).json() == {"run_id": run_id, "scores": 0}
    assert requests.post(index, json={}, auth=BOB, timeout=30).status_code == 404
    assert requests.get(compare, auth=ALICE, timeout=30).json()["tasks"] == {}
    assert requests.get(compare, auth=BOB, timeout=30).status_code == 404
    readable, other = auth_server.new_run("readable results")
    auth_server.permit(readable, BOB, "READ")
    refused = requests.post(f"{auth_server.url}{API}/runs/{other}/index", json={}, auth=BOB, timeout=30)
    assert refused.status_code == 403


def imported(world: EvaluationWorld, twin: str, **tags: str) -> str:
    """A run with the results of another one, as the importer leaves it: no row of ours knows it."""
    source = world.client.get_run(twin)
    kept = {key: value for key, value in source.data.tags.items() if key.startswith("lmms.task.")}
    made = world.client.create_run(
        source.info.experiment_id,
        run_name="a folder",
        tags={**kept, Tag.MODEL: "imported", Tag.SOURCE: "import", Tag.TASKS: source.data.tags[Tag.TASKS], **tags},
    )
    for name, value in source.data.metrics.items():
        world.client.log_metric(made.info.run_id, name, value)
    folder = world.client.download_artifacts(twin, "lmms")
    world.client.log_artifacts(made.info.run_id, folder, "lmms")
    world.client.set_terminated(made.info.run_id)
    return str(made.info.run_id)


@pytest.fixture
def outsider(seeded: Seeded) -> Iterator[str]:
    """An imported run on the boards."""
    run_id = imported(seeded.world, seeded.finished["centroid"])
    yield run_id
    seeded.world.client.delete_run(run_id)
    seeded.world.services.scores.refresh_run(run_id)


def test_an_imported_run_has_everything_but_a_queue(seeded: Seeded, visitor: FlaskClient, outsider: str) -> None:
    assert get(visitor, f"/evaluations/{outsider}")["source"] == "import"
    assert visitor.post(f"{API}/runs/{outsider}/index", json={}).get_json()["scores"] > 2
    board = get(visitor, "/leaderboard")
    (row,) = [row for row in board["rows"] if row["model"] == "imported"]
    assert row["cells"]["digits_vqa"]["source"] == "import" and row["cells"]["digits_vqa"]["rank"]
    page = get(visitor, f"/evaluations/{outsider}/samples/digits_vqa?wrong=1")
    assert page["total"] > 0
    picture = visitor.get(page["samples"][0]["media"][0])
    assert picture.status_code == 200 and picture.mimetype == "image/png"
    assert get(visitor, f"/evaluations/{outsider}/log")["lines"][0]["message"] == "loading"
    assert "samples" in get(visitor, f"/evaluations/{outsider}/samples/digits_vqa?limit=1")
    assert "has no task" in get(visitor, f"/evaluations/{outsider}/samples/mme", 404)["error"]["message"]
    for move in ("cancel", "retry"):
        assert visitor.post(f"{API}/evaluations/{outsider}/{move}", json={}).status_code == 404


def test_a_deleted_run_vanishes(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = imported(seeded.world, seeded.finished["centroid"], **{Tag.MODEL: "gone"})
    visitor.post(f"{API}/runs/{run_id}/index", json={})
    seeded.world.client.delete_run(run_id)
    get(visitor, f"/evaluations/{run_id}", 404)
    seeded.world.services.scores.refresh_run(run_id)  # as the feed of a server does
    assert all(row["model"] != "gone" for row in get(visitor, "/leaderboard")["rows"])


def test_runs_are_compared_in_plain_words(seeded: Seeded, visitor: FlaskClient, outsider: str) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    same = get(visitor, f"/comparability?first={one}&second={two}")
    assert same["verdict"] == "comparable" and set(same["tasks"]) == {"digits_vqa", "digits_robust"}
    told = {
        "dataset": "other",
        "task_config": "digits_vqa",
        "generation": "g",
        "num_fewshot": 0,
        "lmms_eval": "0.7.3",
    }
    seeded.world.client.set_tag(outsider, Tag.fingerprint("digits_vqa"), json.dumps(told))
    found = get(visitor, f"/comparability?first={one}&second={outsider}&task=digits_vqa")
    assert found["verdict"] == "not comparable"
    assert found["tasks"] == {"digits_vqa": {"verdict": "not comparable", "reasons": ["the documents differ"]}}
    missing = get(visitor, f"/comparability?first={one}&second={two}&task=mme", 404)
    assert "no result of task 'mme'" in missing["error"]["message"]
    assert "second" in get(visitor, f"/comparability?first={one}", 400)["error"]["message"]
    get(visitor, f"/comparability?first={one}&second={'0' * 32}", 404)


@pytest.fixture
def command_line(visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands talk to the app under test."""
    talk_to(visitor, monkeypatch)


@pytest.mark.usefixtures("command_line")
def test_suites_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "letters.yaml"
    file.write_text("name: letters\nerrored: {policy: drop, fail_above: 0.1}\ntasks: [digits_vqa, digits_sum]\n")

    def said(*words: str, code: int = 0) -> str:
        assert run(list(words)) == code
        shown = capsys.readouterr()
        return shown.out + shown.err

    assert "letters is at revision 1" in said("suite", "put", str(file), "--note", "why not")
    assert "stays at revision 1" in said("suite", "put", str(file))
    assert "letters" in said("suite", "list") and "why not" in said("suite", "history", "letters")
    shown = said("suite", "show", "letters")
    assert "digits_sum" in shown and "drop; a task fails when more than 10%" in shown
    exported = said("suite", "export", "letters", "--revision", "1")
    again = tmp_path / "again.yaml"
    again.write_text(exported)
    assert "stays at revision 1" in said("suite", "put", str(again))
    assert json.loads(said("suite", "list", "--format", "json"))[0]["revision"] == 1
    assert "cannot be read" in said("suite", "put", str(tmp_path / "none.yaml"), code=2)
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as a text" in said("suite", "put", str(file), code=2)
    assert "no suite 'nothing'" in said("suite", "show", "nothing", code=1)


@pytest.mark.usefixtures("command_line")
def test_comparable_answers_by_its_exit_code(
    seeded: Seeded, outsider: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    assert run(["comparable", one, two]) == 0
    assert "digits_vqa: comparable" in capsys.readouterr().out
    seeded.world.client.set_tag(outsider, Tag.fingerprint("digits_vqa"), json.dumps({"dataset": "other"}))
    assert run(["comparable", one, outsider, "--task", "digits_vqa"]) == 1
    assert "  - the documents differ\n" in capsys.readouterr().out
    seeded.world.client.set_tag(outsider, Tag.fingerprint("digits_vqa"), json.dumps({"dataset": "d"}))
    assert run(["comparable", one, outsider, "--task", "digits_vqa", "--format", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["verdict"] == "cannot be told"


def test_runs_are_compared_with_a_baseline(seeded: Seeded, visitor: FlaskClient, outsider: str) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    found = get(visitor, f"/comparison?run={one}&run={two}")
    assert [task["task"] for task in found["tasks"]] == ["digits_robust", "digits_vqa"]
    told = found["tasks"][1]["candidates"][two]
    assert told["difference"] == pytest.approx(told["value"] - found["tasks"][1]["baseline"]["value"])
    assert told["low"] < told["difference"] < told["high"]
    assert told["wins"] + told["losses"] + told["ties"] == told["n"]
    assert sum(found["counts"][two].values()) == 2
    alone = get(visitor, f"/comparison?run={one}&run={two}&task=digits_vqa")
    assert [task["task"] for task in alone["tasks"]] == ["digits_vqa"]
    assert "2 to 50" in get(visitor, f"/comparison?run={one}&run={one}", 400)["error"]["message"]
    get(visitor, f"/comparison?run={one}&run={'0' * 32}", 404)


@pytest.mark.usefixtures("command_line")
def test_a_comparison_on_the_command_line_and_as_a_data_frame(
    seeded: Seeded, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    assert run(["compare", one, two]) == 0
    shown = capsys.readouterr().out
    assert "digits_vqa" in shown and "difference" in shown and "of 2 tasks" in shown
    assert run(["compare", one, two, "--task", "digits_vqa", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["tasks"][0]["candidates"][two]
    frame = mlflow_lmms.compare(one, two)
    assert list(frame["task"]) == ["digits_robust", "digits_vqa"]
    assert frame["difference"][1] == told["difference"]
    board = mlflow_lmms.leaderboard()
    assert {"centroid", "k-nn"} <= {model.split(" ")[0] for model in board["model"]}
    assert {"task", "value", "low", "high", "rank"} <= set(board.columns)


def test_documents_are_planned_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["power", "--difference", "0.03", "--deviation", "0.3333333", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents_needed"] == pytest.approx(969, abs=2)
    assert run(["power", "--documents", "1000"]) == 0
    assert "smallest difference" in capsys.readouterr().out
    assert run(["power", "--margin", "0.02", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents_needed_to_pass"] > 1000
    assert run(["power"]) == 2
    assert "--difference" in capsys.readouterr().err
    assert run(["power", "--difference", "0.5"]) == 2
    assert "--disagreement" in capsys.readouterr().err
