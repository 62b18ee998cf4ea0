"""Gates over HTTP, from Python and on the command line: verdicts, exit codes, files, the record, permissions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import requests
from app_client import talk_to
from evaluation_world import Seeded
from flask.testing import FlaskClient
from mlflow import MlflowClient
from mlflow_process import ALICE, BOB, MlflowProcess

import mlflow_lmms
from mlflow_lmms.cli.main import run
from mlflow_lmms.names import Tag

API = "/lmms/api/v1"
BETTER, CHAMPION = "models:/k-nn/1", "models:/centroid@champion"
SUITE = {
    "name": "release",
    "tasks": [{"task": "digits_vqa", "margin": 0.05, "weight": 3}, {"task": "digits_robust", "margin": 0.1}],
}


@pytest.fixture
def visitor(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """Somebody who gates where there is a suite and a champion; commands talk to the same app."""
    client = seeded.world.client
    client.set_registered_model_alias("centroid", "champion", "1")
    found = seeded.world.app().test_client()
    assert found.put(f"{API}/suites/release", json={"suite": SUITE}).status_code == 201
    talk_to(found, monkeypatch)
    yield found
    client.delete_registered_model_alias("centroid", "champion")
    for name in ("centroid", "k-nn"):
        for key in gate_tags(client, name):
            client.delete_model_version_tag(name, "1", key)
    with seeded.world.services.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM lmms_suite_revisions")
        connection.exec_driver_sql("DELETE FROM lmms_suites")


def gate_tags(client: MlflowClient, name: str) -> dict[str, str]:
    tags = client.get_model_version(name, "1").tags
    return {key: value for key, value in tags.items() if key.startswith("lmms.gate")}


def gate(visitor: FlaskClient, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = visitor.post(f"{API}/gates", json=body)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def test_a_better_model_passes_and_its_version_says_so(seeded: Seeded, visitor: FlaskClient) -> None:
    told = gate(visitor, candidate=BETTER, baseline=CHAMPION, suite="release")
    assert (told["outcome"], told["exit_code"]) == ("pass", 0)
    assert told["suite"] == {"name": "release", "revision": 1}
    assert {task["task"]: task["margin"] for task in told["tasks"]} == {"digits_vqa": 0.05, "digits_robust": 0.1}
    assert told["mean"]["counted"] == 2
    assert set(told["candidate"]["runs"].values()) == {seeded.finished["k-nn"]}
    tags = gate_tags(seeded.world.client, "k-nn")
    assert tags["lmms.gate.release"] == "pass"
    details = json.loads(tags["lmms.gate.release.details"])
    assert (details["suite_revision"], details["baseline"], details["by"]) == (1, "centroid v1", None)
    assert details["at"] == told["at"] and details["runs"]["baseline"] == [seeded.finished["centroid"]]
    found = seeded.world.client.search_model_versions("tag.`lmms.gate.release` = 'pass'")
    assert [version.name for version in found] == ["k-nn"]


def test_a_worse_model_fails_and_nothing_is_written_where_that_is_not_wanted(
    seeded: Seeded, visitor: FlaskClient
) -> None:
    told = gate(visitor, candidate="models:/centroid/1", baseline=BETTER, suite="release@1", record=False)
    assert (told["outcome"], told["exit_code"], told["recorded"]) == ("fail", 1, [])
    assert gate_tags(seeded.world.client, "centroid") == {}


def test_runs_are_judged_as_well_on_the_tasks_of_the_baseline(seeded: Seeded, visitor: FlaskClient) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]
    told = gate(visitor, candidate=two, baseline=one, margin=0.02)
    assert told["outcome"] == "pass" and told["suite"] is None
    assert [task["task"] for task in told["tasks"]] == ["digits_robust", "digits_vqa"]
    assert gate_tags(seeded.world.client, "k-nn")["lmms.gate"] == "pass"


def test_a_task_without_a_result_is_inconclusive(seeded: Seeded, visitor: FlaskClient) -> None:
    wider = {"name": "release", "tasks": [*SUITE["tasks"], {"task": "digits_sum", "margin": 0.05}]}
    assert visitor.put(f"{API}/suites/release", json={"suite": wider}).status_code == 201
    told = gate(visitor, candidate=BETTER, baseline=CHAMPION, suite="release")
    assert (told["outcome"], told["exit_code"]) == ("inconclusive", 2)
    (missing,) = [task for task in told["tasks"] if task["task"] == "digits_sum"]
    assert missing["outcome"] == "inconclusive" and "no result" in missing["reason"]
    assert json.loads(gate_tags(seeded.world.client, "k-nn")["lmms.gate.release.details"])["not_passed"] == [
        "digits_sum"
    ]


def test_groups_are_guarded(visitor: FlaskClient) -> None:
    asked: dict[str, Any] = {
        "candidate": "models:/centroid/1", "baseline": BETTER, "suite": "release", "record": False, "margin": 1,
        "suite_margin": 1,
    }  # fmt: skip
    told = gate(visitor, **asked, slice_margin=0.02, dimensions=["perturbation"])
    groups = [group for task in told["tasks"] for group in task["groups"]]
    assert {group["dimension"] for group in groups} == {"perturbation"}
    assert len(groups) == 10
    assert {task["outcome"] for task in told["tasks"]} == {"pass"}
    assert told["outcome"] in ("fail", "inconclusive")
    wide = gate(visitor, **asked, slice_margin=1, dimensions=["perturbation"])
    assert wide["outcome"] == "pass"
    unknown = gate(visitor, **asked, slice_margin=1, dimensions=["no_such"])
    assert unknown["outcome"] == "inconclusive"


def test_a_run_that_only_calls_itself_like_the_model_does_not_stand_for_it(
    seeded: Seeded, visitor: FlaskClient
) -> None:
    """A label is anybody's: an unregistered model may be called ``centroid v1``."""
    client, twin = seeded.world.client, seeded.world.client.get_run(seeded.finished["k-nn"])
    kept = {key: value for key, value in twin.data.tags.items() if key.startswith("lmms.task.")}
    tags = {**kept, Tag.MODEL: "centroid v1", Tag.SOURCE: "import", Tag.TASKS: twin.data.tags[Tag.TASKS]}
    made = client.create_run(twin.info.experiment_id, tags=tags).info.run_id
    for name, value in twin.data.metrics.items():
        client.log_metric(made, name, value)
    try:
        assert seeded.world.services.scores.refresh_run(made) > 0
        told = gate(visitor, candidate="models:/centroid/1", baseline=BETTER, suite="release", record=False)
        assert set(told["candidate"]["runs"].values()) == {seeded.finished["centroid"]}
        client.set_tag(made, Tag.MODEL_VERSION, "4711")
        told = gate(visitor, candidate=made, baseline=BETTER, suite="release")
        assert (told["candidate"]["version"], told["recorded"]) == (None, []), (
            "there is no such version to write onto"
        )
    finally:
        client.delete_run(made)
        seeded.world.services.scores.refresh_run(made)


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"suite": "nothing"}, 404, "no suite 'nothing'"),
        ({"suite": "release@9"}, 404, "no revision 9"),
        ({"suite": "release@x"}, 400, "NAME@REVISION"),
        ({"suite": None}, 400, "no margin is known"),
        ({"candidate": CHAMPION}, 400, "both"),
        ({"candidate": "models:/centroid/1"}, 400, "centroid v1"),
        ({"candidate": "models:/k-nn/77"}, 404, "has the versions 1"),
        ({"candidate": "0" * 32}, 404, "does not exist"),
        ({"candidate": "models:/nothing/1"}, 404, "nothing"),
        ({"margins": {"mme": 0.1}}, 400, "mme is none of the tasks"),
        ({"margin": -0.1}, 400, "margin"),
        ({"margin": 2}, 400, "margin"),
        ({"author": "me"}, 400, "author"),
    ],
)
def test_a_wrong_request_is_no_verdict(
    visitor: FlaskClient, changes: dict[str, Any], status: int, words: str
) -> None:
    body = {"candidate": BETTER, "baseline": CHAMPION, "suite": "release"} | changes
    assert words in gate(visitor, status, **{k: v for k, v in body.items() if v is not None})["error"]["message"]


def test_the_command_line_says_it_by_exit_code_and_files(
    visitor: FlaskClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit, markdown = tmp_path / "gate.xml", tmp_path / "gate.md"
    asked = ["gate", "--candidate", BETTER, "--baseline", CHAMPION, "--suite", "release"]
    assert run([*asked, "--junit", str(junit), "--markdown", str(markdown)]) == 0
    shown = capsys.readouterr().out
    assert "PASS" in shown and "lmms.gate.release" in shown and "weighted mean of 2 of 2" in shown
    assert ElementTree.parse(junit).getroot().get("failures") == "0"
    assert markdown.read_text(encoding="utf-8").startswith("## Gate: ✅ pass")
    turned = ["gate", "--candidate", "models:/centroid/1", "--baseline", BETTER, "--no-record"]
    assert run([*turned, "--margin", "0.05", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == "fail"
    assert run([*asked[:-1], "release", "--margin", "digits_vqa=0.2", "--slice-margin", "0.01"]) == 2
    assert "INCONCLUSIVE" in capsys.readouterr().out


def test_what_goes_wrong_has_exit_codes_that_are_no_verdicts(
    visitor: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["gate", "--candidate", BETTER, "--baseline", CHAMPION, "--suite", "release", "--no-record"]
    assert run(["gate", "--candidate", BETTER]) == 64
    assert run([*asked, "--no-such-option"]) == 64
    assert run([*asked, "--margin", "much"]) == 64
    assert run([*asked, "--suite", "nothing"]) == 70
    assert run([*asked, "--junit", str(tmp_path / "none" / "gate.xml")]) == 64
    assert "cannot be written" in capsys.readouterr().err

    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run(asked) == 3
    assert "does not answer" in capsys.readouterr().err


def test_a_gate_as_a_data_frame(visitor: FlaskClient) -> None:
    frame = mlflow_lmms.gate(BETTER, CHAMPION, suite="release", record=False)
    assert frame.attrs["outcome"] == "pass"
    assert list(frame["task"]) == ["digits_vqa", "digits_robust"]
    assert {"gain", "low", "high", "margin", "outcome", "reason"} <= set(frame.columns)


def test_boards_and_comparisons_come_in_every_form(
    seeded: Seeded, visitor: FlaskClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = seeded.finished["centroid"], seeded.finished["k-nn"]

    def said(*words: str) -> str:
        assert run(list(words)) == 0
        return capsys.readouterr().out

    assert said("leaderboard", "--format", "csv").startswith("model,overall_rank,")
    assert "| rank | model |" in said("leaderboard", "--format", "markdown").replace("---", "")
    assert r"\begin{tabular}" in said("leaderboard", "--format", "latex")
    assert said("leaderboard", "--format", "model-index").startswith("model-index:")
    assert "digits_vqa" in said("compare", one, two, "--format", "csv")
    assert "## Comparison with centroid v1" in said("compare", one, two, "--format", "markdown")
    assert r"\toprule" in said("compare", one, two, "--format", "latex")
    file = tmp_path / "report.html"
    assert f"wrote {file}" in said("report", "-o", str(file), one, two)
    text = file.read_text(encoding="utf-8")
    assert "k-nn v1" in text and "Compared with centroid v1" in text and "<script" not in text
    assert (file.stat().st_mode & 0o777) != 0o600
    assert run(["report", "-o", str(file), one]) == 2
    assert run(["report", "-o", str(tmp_path / "none" / "x.html")]) == 2
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".html"] == [], "no halves of files stay"


def call(server: MlflowProcess, user: tuple[str, str] | None, path: str, body: dict[str, Any]) -> requests.Response:
    return requests.post(f"{server.url}{path}", json=body, auth=user, timeout=30)


def test_a_gate_asks_for_the_permission_to_read_its_runs(auth_server: MlflowProcess) -> None:
    experiment, run_id = auth_server.new_run("gated results")
    readable, other = auth_server.new_run("other results")
    for place, user, permission in ((experiment, ALICE, "READ"), (experiment, BOB, "DENY"), (readable, BOB, "READ")):
        auth_server.permit(place, user, permission)
    asked = {"candidate": other, "baseline": run_id, "margin": 0.1, "record": False}
    assert call(auth_server, None, f"{API}/gates", asked).status_code == 401
    assert "may not read it" in call(auth_server, BOB, f"{API}/gates", asked).json()["error"]["message"]
    assert "no results to be judged by" in call(auth_server, ALICE, f"{API}/gates", asked).json()["error"]["message"]


def test_only_who_may_edit_the_model_records_a_verdict(auth_server: MlflowProcess) -> None:
    registry = "/api/2.0/mlflow"
    assert call(auth_server, ALICE, f"{registry}/registered-models/create", {"name": "judged"}).ok
    for _ in range(2):
        made = {"name": "judged", "source": "s3://nowhere/judged"}
        assert call(auth_server, ALICE, f"{registry}/model-versions/create", made).ok
    suite = {"suite": {"name": "judging", "tasks": [{"task": "mme", "margin": 1}]}}
    put = requests.put(f"{auth_server.url}{API}/suites/judging", json=suite, auth=ALICE, timeout=30)
    assert put.status_code == 201
    asked = {"candidate": "models:/judged/2", "baseline": "models:/judged/1", "suite": "judging"}
    refused = call(auth_server, BOB, f"{API}/gates", asked)
    assert (refused.status_code, refused.json()["error"]["class"]) == (403, "NotAllowedError")
    assert "--no-record" in refused.json()["error"]["message"]
    assert call(auth_server, BOB, f"{API}/gates", asked | {"record": False}).json()["outcome"] == "inconclusive"
    told = call(auth_server, ALICE, f"{API}/gates", asked).json()
    assert (told["by"], told["recorded"]) == (ALICE[0], ["lmms.gate.judging", "lmms.gate.judging.details"])
    found = requests.get(
        f"{auth_server.url}{registry}/model-versions/get?name=judged&version=2", auth=ALICE, timeout=30
    ).json()["model_version"]
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    assert tags["lmms.gate.judging"] == "inconclusive"
    assert json.loads(tags["lmms.gate.judging.details"])["by"] == ALICE[0]
