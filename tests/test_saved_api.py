"""Saved views, notes, corrections, flips and the diff of settings: over HTTP, on the command line, and who may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from app_client import talk_to
from evaluation_world import Seeded
from flask.testing import FlaskClient
from mlflow_process import ADMIN, ALICE, BOB, MlflowProcess

import mlflow_lmms
from mlflow_lmms.cli.main import run
from mlflow_lmms.report.markdown import markdown_text
from mlflow_lmms.report.records import FLIP_COLUMNS

API = "/lmms/api/v1"
TASK = "digits_vqa"
_TABLES = ("lmms_saved_view_revisions", "lmms_saved_views", "lmms_notes", "lmms_corrections")


def call(visitor: FlaskClient, method: str, path: str, status: int = 200, body: Any = None) -> dict[str, Any]:
    answer = visitor.open(f"{API}{path}", method=method, json=body)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def get(visitor: FlaskClient, path: str, status: int = 200) -> dict[str, Any]:
    return call(visitor, "GET", path, status)


def message(answer: dict[str, Any]) -> str:
    return str(answer["error"]["message"])


@pytest.fixture
def visitor(seeded: Seeded) -> Iterator[FlaskClient]:
    """Somebody who calls the API where nothing has been kept yet."""
    yield seeded.world.app().test_client()
    with seeded.world.services.store.engine.begin() as connection:
        for table in _TABLES:
            connection.exec_driver_sql(f"DELETE FROM {table}")
    for run_id in seeded.finished.values():
        seeded.world.services.scores.refresh_run(run_id)


@pytest.fixture
def pair(seeded: Seeded) -> tuple[str, str]:
    """A baseline and a candidate that is right everywhere."""
    return seeded.finished["centroid"], seeded.finished["k-nn"]


def save(visitor: FlaskClient, **view: Any) -> str:
    return str(call(visitor, "POST", "/views", 201, {"view": view, "note": "first"})["id"])


def cell(visitor: FlaskClient, model: str, query: str = "") -> dict[str, Any]:
    rows = get(visitor, f"/leaderboard?{query}")["rows"]
    found: dict[str, Any] = next(row for row in rows if row["model"].startswith(model))["cells"][TASK]
    return found


def test_a_saved_board_is_opened_anew_and_follows_what_changes(visitor: FlaskClient, pair: tuple[str, str]) -> None:
    made = save(visitor, kind="board", name="One task", query={"tasks": [TASK]}, shared=True)
    shown = get(visitor, f"/views/{made}/open")["shown"]
    assert [column["task"] for column in shown["columns"]] == [TASK]
    before = {row["model"]: row["cells"][TASK]["rank"] for row in shown["rows"]}
    assert before["k-nn v1"] == 1
    correction = {"task": TASK, "action": "invalidate", "reason": "it has seen the test"}
    call(visitor, "POST", f"/runs/{pair[1]}/corrections", 201, correction)
    after = {row["model"]: row["cells"][TASK] for row in get(visitor, f"/views/{made}/open")["shown"]["rows"]}
    assert after["k-nn v1"]["rank"] is None and after["centroid v1"]["rank"] == 1
    assert get(visitor, f"/views/{made}/open")["view"]["query"] == {"tasks": [TASK]}


def test_a_view_has_a_history_and_refuses_what_is_stale(visitor: FlaskClient) -> None:
    made = save(visitor, kind="board", name="a")
    changed = {"view": {"kind": "board", "name": "b", "shared": True}, "note": "renamed", "base": 1}
    assert call(visitor, "PUT", f"/views/{made}", 201, changed)["made"] is True
    assert call(visitor, "PUT", f"/views/{made}", 200, changed | {"base": 2})["made"] is False
    assert "at revision 2" in message(call(visitor, "PUT", f"/views/{made}", 409, changed))
    revisions = get(visitor, f"/views/{made}/revisions")["revisions"]
    assert [(r["revision"], r["name"], r["note"]) for r in revisions] == [(2, "b", "renamed"), (1, "a", "first")]
    assert get(visitor, f"/views/{made}?revision=1")["name"] == "a"
    assert [v["id"] for v in get(visitor, "/views?kind=board")["views"]] == [made]
    assert get(visitor, "/views?kind=comparison")["views"] == []
    assert "does not exist" in message(get(visitor, f"/views/{'0' * 32}", 404))


def test_a_saved_comparison_has_its_baseline_tasks_filters_and_notes(
    visitor: FlaskClient, pair: tuple[str, str]
) -> None:
    one, two = pair
    view = {"kind": "comparison", "name": "c", "runs": [two, one], "baseline": one, "notes": "look at digits"}
    found = get(visitor, f"/views/{save(visitor, **view)}/open")
    shown = found["shown"]
    assert (shown["baseline"], len(shown["tasks"]), shown["missing"]) == (one, 2, [])
    assert found["view"]["notes"] == "look at digits"
    filters = {"verdicts": ["better"], "search": "VQA digits"}
    filtered = get(visitor, f"/views/{save(visitor, **view, filters=filters)}/open")["shown"]
    assert [task["task"] for task in filtered["tasks"]] == [TASK]
    assert filtered["filtered"] == 1 and filtered["counts"] == shown["counts"]
    adjusted = {task["task"]: task["candidates"][two]["adjusted"] for task in shown["tasks"]}
    assert filtered["tasks"][0]["candidates"][two]["adjusted"] == adjusted[TASK]
    nothing = get(visitor, f"/views/{save(visitor, **view, filters={'verdicts': ['worse']})}/open")["shown"]
    assert (nothing["tasks"], nothing["filtered"]) == ([], 2)
    gone = "f" * 32
    assert "does not exist" in message(
        call(visitor, "POST", "/views", 404, {"view": view | {"runs": [one, gone], "baseline": None}})
    )


def test_a_comparison_names_runs_that_have_no_results(visitor: FlaskClient, seeded: Seeded) -> None:
    one, empty = seeded.finished["centroid"], seeded.queued
    made = save(visitor, kind="comparison", name="c", runs=[one, empty])
    assert get(visitor, f"/views/{made}/open")["shown"]["missing"] == [empty]
    turned = save(visitor, kind="comparison", name="c", runs=[empty, one])
    assert "has no results to compare with" in message(get(visitor, f"/views/{turned}/open", 404))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "view"),
        ({"view": []}, "view"),
        ({"view": {"kind": "board", "name": "x"}, "owner": "me"}, "owner"),
        ({"view": {"kind": "board", "name": "\x00"}}, "name"),
        ({"view": {"kind": "board", "name": "x"}, "note": "\x00"}, "note"),
        ({"view": {"kind": "board", "name": "x"}, "note": "\ud800"}, "note"),
        ({"view": {"kind": "board", "name": "x", "query": {"suite": "\ud800"}}}, "suite"),
        ({"view": {"kind": "comparison", "name": "x", "runs": ["../../etc", "b"]}}, "runs.0"),
    ],
)
def test_a_view_that_is_not_sound_is_refused(visitor: FlaskClient, body: Any, words: str) -> None:
    assert words in message(call(visitor, "POST", "/views", 400, body))
    assert get(visitor, "/views")["views"] == []


def test_notes_are_written_on_runs_results_and_samples(visitor: FlaskClient, pair: tuple[str, str]) -> None:
    run_id = pair[0]
    for body in (
        {"text": " a run "},
        {"text": "<b>cell</b>", "task": TASK},
        {"text": "x", "task": TASK, "sample": 3},
    ):
        call(visitor, "POST", f"/runs/{run_id}/notes", 201, body)
    found = get(visitor, f"/notes?run={run_id}")
    assert found["total"] == 3
    assert [(n["text"], n["task"], n["sample"]) for n in found["notes"]] == [
        ("x", TASK, 3),
        ("<b>cell</b>", TASK, None),
        ("a run", None, None),
    ]
    sample = get(visitor, f"/evaluations/{run_id}/samples/{TASK}?offset=3&limit=1")["samples"][0]
    assert found["notes"][0]["document"] == sample["doc_hash"]
    assert get(visitor, f"/notes?run={run_id}&task=&limit=1")["notes"][0]["text"] == "a run"
    assert get(visitor, f"/notes?run={pair[1]}") == {"notes": [], "total": 0}
    assert get(visitor, f"/notes?task={TASK}&sample=3")["total"] == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": ""}, 400, "text"),
        ({"text": " \t\n"}, 400, "text"),
        ({"text": "a\x00"}, 400, "text"),
        ({"text": "\udfff"}, 400, "text"),
        ({"text": "x" * 4001}, 400, "text"),
        ({"text": "x", "sample": 1}, 400, "name the task"),
        ({"text": "x", "task": TASK, "sample": -1}, 400, "sample"),
        ({"text": "x", "task": TASK, "sample": True}, 400, "sample"),
        ({"text": "x", "task": TASK, "sample": 10**8}, 404, "there is no number 100000000"),
        ({"text": "x", "task": "mme"}, 404, "no result of task 'mme'"),
        ({"text": "x", "task": "a\x00b"}, 404, "no result"),
        ({"text": "x", "author": "root"}, 400, "author"),
    ],
)
def test_a_note_that_is_not_sound_is_refused(
    visitor: FlaskClient, pair: tuple[str, str], body: dict[str, Any], status: int, words: str
) -> None:
    assert words in message(call(visitor, "POST", f"/runs/{pair[0]}/notes", status, body))
    assert get(visitor, "/notes")["total"] == 0


@pytest.mark.parametrize(
    "query",
    ["run=", "run=a%00", "run=" + "x" * 65, "task=%00", "task=" + "x" * 251, "sample=-1", "before=x", "limit=0"],
)
def test_spoiled_questions_are_refused(visitor: FlaskClient, query: str) -> None:
    get(visitor, f"/notes?{query}", 400)
    if not query.startswith("sample"):
        get(visitor, f"/corrections?{query}", 400)


def test_an_invalidated_result_is_shown_with_the_reason_and_ranked_no_more(
    visitor: FlaskClient, pair: tuple[str, str]
) -> None:
    one, two = pair
    before = cell(visitor, "k-nn")
    assert before["rank"] == 1
    wrong = {"task": TASK, "action": "invalidate", "reason": "the answers leaked"}
    assert call(visitor, "POST", f"/runs/{two}/corrections", 201, wrong)["action"] == "invalidate"
    for query in ("", "flagged=1"):
        shown = cell(visitor, "k-nn", query)
        assert shown["rank"] is None and shown["value"] == before["value"]
        assert "the answers leaked" in json.dumps(shown["warnings"])
    told = get(visitor, f"/comparison?run={one}&run={two}&task={TASK}")["tasks"][0]["candidates"][two]
    assert (told["verdict"], told["reason"]) == ("not comparable", "the result was invalidated")
    call(visitor, "POST", f"/runs/{two}/corrections", 201, wrong | {"action": "restore", "reason": "they did not"})
    assert cell(visitor, "k-nn") == before
    ledger = get(visitor, f"/corrections?run={two}")["corrections"]
    assert [(c["action"], c["reason"]) for c in ledger] == [
        ("restore", "they did not"),
        ("invalidate", "the answers leaked"),
    ]
    again = call(visitor, "POST", f"/runs/{two}/corrections", 409, wrong | {"action": "restore"})
    assert "stands as it was recorded already" in message(again)


def test_a_rescored_result_has_its_new_value_on_boards_and_in_no_paired_test(
    visitor: FlaskClient, seeded: Seeded, pair: tuple[str, str]
) -> None:
    one, two = pair
    new = {"task": TASK, "action": "rescore", "reason": "wrong labels", "value": 0.25}
    call(visitor, "POST", f"/runs/{two}/corrections", 201, new)
    shown = cell(visitor, "k-nn")
    assert (shown["value"], shown["low"], shown["rank"]) == (0.25, None, None)
    call(visitor, "POST", f"/runs/{two}/corrections", 201, new | {"low": 0.2, "high": 0.3})
    shown = cell(visitor, "k-nn")
    assert (shown["value"], shown["low"], shown["paired"]) == (0.25, 0.2, False)
    assert shown["rank"] > cell(visitor, "centroid")["rank"]
    assert "Re-scored by hand as 0.25" in json.dumps(shown["warnings"])
    told = get(visitor, f"/comparison?run={one}&run={two}&task={TASK}")["tasks"][0]["candidates"][two]
    assert (told["value"], told["verdict"]) == (0.25, "no shared documents")
    seeded.world.services.scores.refresh_run(two)  # as a rebuilt index does
    assert cell(visitor, "k-nn")["value"] == 0.25


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"action": "rescore", "value": 1.5}, 400, "at most 1"),
        ({"action": "rescore", "value": 0.5, "low": 0.4, "high": 2}, 400, "at most 1"),
        ({"action": "rescore"}, 400, "a number goes with rescore"),
        ({"action": "invalidate", "task": "mme"}, 404, "no result of task 'mme'"),
        ({"action": "invalidate", "reason": ""}, 400, "reason"),
        ({"action": "invalidate", "reason": "\x00"}, 400, "reason"),
        ({"action": "restore"}, 409, "as it was recorded"),
    ],
)
def test_a_correction_that_cannot_be_is_refused(
    visitor: FlaskClient, pair: tuple[str, str], body: dict[str, Any], status: int, words: str
) -> None:
    whole = {"task": TASK, "reason": "why"} | body
    assert words in message(call(visitor, "POST", f"/runs/{pair[1]}/corrections", status, whole))
    assert get(visitor, "/corrections")["corrections"] == []


def test_flips_are_paged_with_both_answers_and_pictures(visitor: FlaskClient, pair: tuple[str, str]) -> None:
    one, two = pair
    asked = f"/comparison/flips?baseline={one}&candidate={two}&task={TASK}"
    found = get(visitor, f"{asked}&kind=wrong_to_right&limit=2")
    was, is_ = (
        {
            sample["doc_hash"]
            for sample in get(visitor, f"/evaluations/{run}/samples/{TASK}?wrong=1&limit=80")["samples"]
        }
        for run in pair
    )
    assert found["total"] == found["counts"]["wrong_to_right"] == len(was - is_) > 2
    assert found["counts"]["right_to_wrong"] == len(is_ - was)
    assert found["doubts"] is None and len(found["flips"]) == 2
    flip = found["flips"][0]
    assert flip["baseline"]["doc_hash"] == flip["candidate"]["doc_hash"]
    assert visitor.get(flip["candidate"]["media"][0]).mimetype == "image/png"
    everything = get(visitor, f"{asked}&" + "&".join(f"kind={kind}" for kind in found["counts"]))
    assert everything["total"] == found["documents"]["shared"] == 80
    for query, words in (
        ("kind=all", "kind: expected some of right_to_wrong"),
        ("limit=501", "limit"),
        ("offset=-1", "offset"),
        ("search=" + "x" * 251, "search"),
        ("search=%00", "search"),
    ):
        assert words in message(get(visitor, f"{asked}&{query}", 400))
    assert "task" in message(get(visitor, f"/comparison/flips?baseline={one}&candidate={two}", 400))
    assert "no score of task" in message(get(visitor, asked.replace(TASK, "mme"), 404))
    get(visitor, asked.replace(two, "0" * 32), 404)


def test_settings_of_runs_are_laid_side_by_side(visitor: FlaskClient, pair: tuple[str, str]) -> None:
    one, two = pair
    found = get(visitor, f"/comparison/config?run={one}&run={two}")
    differing = {(s["section"], s["name"]): s["values"] for s in found["settings"]}
    assert differing["run", "model"] == {one: "centroid", two: "k-nn"}
    assert found["equal"] > 5 and all(s["differs"] for s in found["settings"])
    everything = get(visitor, f"/comparison/config?run={one}&run={two}&all=1")["settings"]
    assert len(everything) == found["equal"] + len(found["settings"])
    assert "2 to 50" in message(get(visitor, f"/comparison/config?run={one}&run={one}", 400))
    get(visitor, f"/comparison/config?run={one}&run={'0' * 32}", 404)


@pytest.fixture
def said(visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command against the app under test and returns what it printed."""
    talk_to(visitor, monkeypatch)

    def speak(*words: str, code: int = 0) -> str:
        assert run(list(words)) == code, capsys.readouterr()
        shown = capsys.readouterr()
        return shown.out + shown.err

    return speak


def test_views_on_the_command_line(said: Any, pair: tuple[str, str]) -> None:
    one, two = pair
    where = ("--where", f"task={TASK}", "--where", "result=best")
    board = json.loads(said("view", "save-board", "My board", *where, "--shared", "--format", "json"))
    assert board["view"]["query"] == {"tasks": [TASK], "result": "best"}
    shown = said("view", "open", board["id"])
    assert "My board" in shown and "k-nn v1" in shown and TASK in shown and "digits_robust" not in shown
    options = ("--baseline", two, "--verdict", "worse", "--notes", "why is it worse", "--format", "json")
    made = json.loads(said("view", "save-comparison", "c", one, two, *options))
    shown = said("view", "open", made["id"])
    assert "why is it worse" in shown and "baseline: k-nn v1" in shown
    assert "is at revision 2" in said("view", "change", board["id"], "--name", "Mine", "--note", "shorter")
    assert "nothing differs" in said("view", "change", board["id"], "--name", "Mine")
    assert "shorter" in said("view", "history", board["id"])
    assert json.loads(said("view", "show", board["id"]))["view"]["query"]["tasks"] == [TASK]
    assert "Mine" in said("view", "list") and "c" in said("view", "list", "--kind", "comparison")
    assert "is at revision 3" in said("view", "change", board["id"], "--archive")
    assert "Mine" not in said("view", "list") and "Mine" in said("view", "list", "--archived")
    assert "--where: nonsense" in said("view", "save-board", "x", "--where", "nonsense=1", code=2)
    assert "expected ARGUMENT=VALUE" in said("view", "save-board", "x", "--where", "task", code=2)
    assert "expected a JSON object" in said("view", "change", board["id"], "--json", "[", code=2)
    assert "does not exist" in said("view", "open", "0" * 32, code=1)


def test_notes_and_corrections_on_the_command_line(said: Any, pair: tuple[str, str]) -> None:
    run_id = pair[1]
    assert "note " in said("note", "add", run_id, "look here", "--task", TASK, "--sample", "0")
    assert "look here" in said("note", "list", run_id) and "look here" in said("note", "list")
    assert json.loads(said("note", "list", "--task", "mme", "--format", "json")) == []
    assert "invalidate: digits_vqa" in said("result", "invalidate", run_id, TASK, "--reason", "leak")
    assert "restore" in said("result", "restore", run_id, TASK, "--reason", "no leak")
    said("result", "set", run_id, TASK, "0.5", "--low", "0.4", "--high", "0.6", "--reason", "labels")
    history = said("result", "history", run_id)
    assert "no leak" in history and "labels" in history and "0.5" in history
    assert "at most 1" in said("result", "set", run_id, TASK, "7", "--reason", "labels", code=2)
    assert "--reason" in said("result", "invalidate", run_id, TASK, code=2)


def test_flips_and_settings_on_the_command_line(said: Any, pair: tuple[str, str]) -> None:
    one, two = pair
    shown = said("flips", one, two, TASK, "--limit", "3")
    assert "wrong to right" in shown and "80 documents" in shown and "1–3 of" in shown
    found = json.loads(said("flips", one, two, TASK, "--kind", "right_to_wrong", "--format", "json"))
    assert found["total"] == found["counts"]["right_to_wrong"]
    assert {flip["kind"] for flip in found["flips"]} == {"right_to_wrong"}
    assert "--kind" in said("flips", one, two, TASK, "--kind", "nonsense", code=2)
    frame = mlflow_lmms.flipped(one, two, TASK, kinds=["right_to_wrong"])
    assert len(frame) == found["total"] > 0 and set(frame["candidate_score"]) == {0.0}
    assert list(frame["document"][:2]) == [flip["baseline"]["doc_hash"] for flip in found["flips"][:2]]
    assert len(mlflow_lmms.flipped(one, two, TASK, most=5)) == 5
    settings = mlflow_lmms.settings_diff(one, two)
    assert list(settings.columns) == ["section", "name", one, two] and "model" in set(settings["name"])
    shown = said("config-diff", one, two)
    assert "centroid" in shown and "settings are equal" in shown
    assert json.loads(said("config-diff", one, two, "--all", "--format", "json"))["settings"]
    for asked, heading, columns in (
        (("flips", one, two, TASK), f"Flips on {TASK}", FLIP_COLUMNS),
        (("config-diff", one, two), "Settings", ("section", "name", one, two)),
    ):
        assert set(said(*asked, "--format", "csv").splitlines()[0].split(",")) == set(columns)
        assert said(*asked, "--format", "markdown").startswith(f"## {markdown_text(heading)}")
        assert r"\begin{tabular}" in said(*asked, "--format", "latex")


def test_nothing_of_hidden_runs_leaks_through_what_is_kept(auth_server: MlflowProcess) -> None:
    hidden, secret = auth_server.new_run("kept and hidden")
    open_, public = auth_server.new_run("kept and open")
    auth_server.permit(hidden, ALICE, "EDIT")
    auth_server.permit(hidden, BOB, "DENY")
    auth_server.permit(open_, ALICE, "EDIT")
    auth_server.permit(open_, BOB, "READ")

    def ask(user: tuple[str, str] | None, method: str, path: str, body: Any = None) -> requests.Response:
        return requests.request(method, f"{auth_server.url}{API}{path}", auth=user, json=body, timeout=30)

    def saved(user: tuple[str, str], **view: Any) -> requests.Response:
        return ask(user, "POST", "/views", {"view": {"name": "kept", "shared": True, **view}})

    compared = {"kind": "comparison", "runs": [public, secret]}
    assert saved(BOB, **compared).status_code == 404
    assert saved(BOB, kind="board", query={"experiments": [hidden]}).status_code == 404
    secrets = [saved(ALICE, **compared).json()["id"]]
    secrets.append(saved(ALICE, kind="board", query={"experiments": [hidden]}).json()["id"])
    shared = saved(ALICE, kind="board", query={"experiments": [open_]}).json()["id"]

    assert {v["id"] for v in ask(ALICE, "GET", "/views").json()["views"]} >= {*secrets, shared}
    listed = ask(BOB, "GET", "/views")
    assert shared in listed.text and not any(view in listed.text for view in secrets)
    for view in secrets:
        for path in (f"/views/{view}", f"/views/{view}/open", f"/views/{view}/revisions"):
            assert ask(BOB, "GET", path).status_code == 404
        assert ask(BOB, "PUT", f"/views/{view}", {"view": {"kind": "board", "name": "x"}}).status_code == 404
    assert ask(BOB, "GET", f"/views/{shared}/open").json()["shown"]["rows"] == []
    assert ask(BOB, "PUT", f"/views/{shared}", {"view": {"kind": "board", "name": "x"}}).status_code == 403
    assert ask(ADMIN, "PUT", f"/views/{shared}", {"view": {"kind": "board", "name": "x"}}).status_code == 201
    assert ask(None, "GET", "/views").status_code == 401

    assert ask(ALICE, "POST", f"/runs/{secret}/notes", {"text": "confidential"}).json()["author"] == ALICE[0]
    assert ask(ALICE, "POST", f"/runs/{public}/notes", {"text": "for all"}).status_code == 201
    assert ask(BOB, "POST", f"/runs/{secret}/notes", {"text": "x"}).status_code == 404
    assert ask(BOB, "POST", f"/runs/{public}/notes", {"text": "x"}).status_code == 403
    for query in ("", f"?run={secret}&run={public}"):
        read = ask(BOB, "GET", f"/notes{query}").json()
        assert (read["total"], [n["text"] for n in read["notes"]]) == (1, ["for all"])

    wrong = {"task": "t", "action": "invalidate", "reason": "why"}
    assert ask(BOB, "POST", f"/runs/{secret}/corrections", wrong).status_code == 404
    assert ask(BOB, "POST", f"/runs/{public}/corrections", wrong).status_code == 403
    told = ask(ALICE, "POST", f"/runs/{public}/corrections", wrong)
    assert told.status_code == 404 and "no result of task" in told.text
    assert ask(BOB, "GET", f"/corrections?run={secret}").json() == {"corrections": []}
    sides = f"baseline={public}&candidate={secret}&task=t"
    hidden_side = ask(BOB, "GET", f"/comparison/flips?{sides}")
    assert hidden_side.status_code == 404
    assert ask(BOB, "GET", f"/comparison/config?run={public}&run={secret}").status_code == 404
    assert ask(ALICE, "GET", f"/comparison/config?run={public}&run={secret}").status_code == 200
