"""The REST API on real services: every door, bad input that is named, and nothing that a browser could run."""

from __future__ import annotations

from typing import Any

import pytest
from evaluation_world import Seeded
from flask.testing import FlaskClient
from runner_output import EVIL

from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.registry import ModelTag
from mlflow_lmms.states import State
from plugin_ui.permissions import declared

API = "/lmms/api/v1"


def get(visitor: FlaskClient, path: str, status: int = 200) -> dict[str, Any]:
    answer = visitor.get(f"{API}{path}")
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def post(visitor: FlaskClient, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    answer = visitor.post(f"{API}{path}", json=body)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def test_every_view_declares_its_permission(seeded: Seeded) -> None:
    app = seeded.world.app()
    assert len(app.view_functions) > 25
    assert [name for name, view in app.view_functions.items() if declared(view) is None] == []


def test_submitting_answers_with_the_run_and_its_page(seeded: Seeded, visitor: FlaskClient) -> None:
    body = {"model": seeded.model, "tasks": ["digits_vqa"], "limit": 4, "model_args": {"k": 3}, "gpus": 7}
    made = post(visitor, "/evaluations", body, 201)
    assert made["url"] == f"http://localhost/lmms/evaluations/{made['run_id']}"
    assert "no worker with 7 GPUs" in made["warnings"][0]
    found = get(visitor, f"/evaluations/{made['run_id']}")
    assert found["request"]["limit"] == 4
    assert found["resolved"]["model_args"]["k"] == "3"
    assert found["state"] == "queued" and found["position"] >= 1
    assert "--limit 4" in found["command"]
    assert post(visitor, f"/evaluations/{made['run_id']}/cancel", {})["state"] == "cancelled"
    assert post(visitor, f"/evaluations/{made['run_id']}/cancel", {}, 409)["error"]["class"] == "ConflictError"
    assert post(visitor, f"/evaluations/{made['run_id']}/retry", {})["tasks"] == ["digits_vqa"]
    seeded.world.services.lifecycle.cancel(made["run_id"])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tasks": ["digits_vqa"]}, "model"),
        ({"adapter": "digits", "tasks": ["digits_vqa"], "limit": "many"}, "limit"),
        ({"adapter": "digits", "tasks": ["digits_vqa"], "batch": 3}, "batch"),
        ({"adapter": "digits", "tasks": ["no_such_task"]}, "no_such_task"),
        ({"adapter": "digits", "tasks": ["digits_vqa"], "model_args": {"api_key": "sk-1"}}, "api_key"),
        (["not", "an", "object"], "object"),
    ],
)
def test_a_bad_request_names_what_is_wrong(visitor: FlaskClient, body: Any, named: str) -> None:
    error = post(visitor, "/evaluations", body, 400)["error"]
    assert error["class"] == "InvalidRequestError"
    assert named in error["message"]


def test_a_body_that_is_no_json_is_refused(visitor: FlaskClient) -> None:
    answer = visitor.post(f"{API}/evaluations", data="{", content_type="application/json")
    assert answer.status_code == 400
    assert "JSON object" in answer.get_json()["error"]["message"]


def test_json_that_is_nested_beyond_all_measure_is_refused(visitor: FlaskClient) -> None:
    answer = visitor.post(f"{API}/evaluations", data="[" * 100_000, content_type="application/json")
    assert answer.status_code == 400
    assert "nested too deeply" in answer.get_json()["error"]["message"]


def test_a_model_whose_tags_somebody_spoiled_hides_no_other(seeded: Seeded, visitor: FlaskClient) -> None:
    client = seeded.world.services.client
    spoiled = client.get_model_version("centroid", "1").tags[ModelTag.ARGUMENTS]
    client.set_model_version_tag("centroid", "1", ModelTag.ARGUMENTS, "no JSON")
    try:
        found = {model["uri"]: model["model_args"] for model in get(visitor, "/models")["models"]}
    finally:
        client.set_model_version_tag("centroid", "1", ModelTag.ARGUMENTS, spoiled)
    assert found["models:/centroid/1"] == {}
    assert "models:/k-nn/1" in found


def test_the_list_is_narrowed_and_paged(seeded: Seeded, visitor: FlaskClient) -> None:
    found = get(visitor, "/evaluations?limit=1000")["evaluations"]
    times = [evaluation["created_at"] for evaluation in found]
    assert times == sorted(times, reverse=True)
    assert {e["run_id"] for e in get(visitor, "/evaluations?state=running")["evaluations"]} == {seeded.running}
    assert {e["model"] for e in get(visitor, "/evaluations?model=evil%20v1")["evaluations"]} == {"evil v1"}
    assert get(visitor, "/evaluations?experiment=4711")["evaluations"] == []
    older = get(visitor, f"/evaluations?limit=2&before={times[0]!r}")["evaluations"]
    assert [e["run_id"] for e in older] == [e["run_id"] for e in found[1:3]]


@pytest.mark.parametrize("query", ["state=lost", "limit=0", "limit=x", "limit=1001", "before=yesterday"])
def test_a_bad_query_names_its_field(visitor: FlaskClient, query: str) -> None:
    assert get(visitor, f"/evaluations?{query}", 400)["error"]["message"].startswith(query.partition("=")[0])


def test_an_unknown_run_is_not_found_anywhere(visitor: FlaskClient) -> None:
    for path in ("", "/log", "/samples/digits_vqa", "/samples/digits_vqa/0/media/0", "/artifacts/lmms/log.jsonl"):
        assert get(visitor, f"/evaluations/{'0' * 32}{path}", 404)["error"]["class"] == "NotFoundError"


def test_the_log_of_an_ended_run_is_filtered_and_continued(seeded: Seeded, visitor: FlaskClient) -> None:
    path = f"/evaluations/{seeded.finished['evil']}/log"
    everything = get(visitor, path)
    assert [line["level"] for line in everything["lines"]] == ["INFO", "WARNING", "ERROR"]
    assert everything["next"] == 3
    assert [line["message"] for line in get(visitor, f"{path}?level=error")["lines"]] == ["one answer was empty"]
    assert [line["message"] for line in get(visitor, f"{path}?search=SLOW")["lines"]] == [f"slow {EVIL}"]
    assert [line["level"] for line in get(visitor, f"{path}?after=1&limit=1")["lines"]] == ["WARNING"]
    assert "level" in get(visitor, f"{path}?level=loud", 400)["error"]["message"]


def test_the_log_of_a_running_evaluation_comes_from_its_live_events(seeded: Seeded, visitor: FlaskClient) -> None:
    events = seeded.world.services.events
    token = seeded.world.services.store.get(seeded.running).part("0").token
    for number, owner in ((1, token), (2, token - 1), (3, token)):
        line = {"time": 1.0, "level": "INFO", "phase": "generate", "rank": 0, "message": f"line {number}"}
        events.append(seeded.running, "log", {"lines": [line]}, part="0", token=owner)
    lines = get(visitor, f"/evaluations/{seeded.running}/log")["lines"]
    assert [line["message"] for line in lines] == ["line 1", "line 3"]  # a former owner's line is dropped


def test_samples_carry_scores_and_pictures(seeded: Seeded, visitor: FlaskClient) -> None:
    path = f"/evaluations/{seeded.finished['centroid']}/samples/digits_vqa"
    page = get(visitor, f"{path}?wrong=1&limit=3")
    assert len(page["samples"]) == 3 < page["total"] < 80
    sample = page["samples"][0]
    assert sample["scores"] == {"exact_match:none": 0.0}
    assert sample["responses"] != [sample["target"]]
    picture = visitor.get(sample["media"][0])
    assert picture.mimetype == "image/png" and picture.data.startswith(b"\x89PNG")
    assert picture.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in picture.headers["Content-Security-Policy"]
    assert get(visitor, f"{path}/0/media/7", 404)["error"]["class"] == "NotFoundError"
    assert get(visitor, f"{path}?wrong=maybe", 400)["error"]["message"].startswith("wrong")
    assert get(visitor, f"{path}_other", 404)["error"]["message"].endswith("digits_vqa, digits_robust")


def test_a_picture_that_could_hold_a_script_is_a_download(
    seeded: Seeded, visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = ("image/svg+xml", f"<svg xmlns='http://www.w3.org/2000/svg'>{EVIL}</svg>".encode())
    monkeypatch.setattr(type(seeded.world.services.reader), "media", lambda *_: drawing)
    answer = visitor.get(f"{API}/evaluations/{seeded.finished['evil']}/samples/digits_vqa/0/media/0")
    assert answer.mimetype == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment"


def test_artifacts_are_served_by_mlflow(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = seeded.finished["k-nn"]
    answer = visitor.get(f"{API}/evaluations/{run_id}/artifacts/lmms/log.jsonl")
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/get-artifact?run_uuid={run_id}&path=lmms%2Flog.jsonl"


def test_the_leaderboard_is_the_board_of_the_page(seeded: Seeded, visitor: FlaskClient) -> None:
    board = get(visitor, "/leaderboard")
    assert [column["task"] for column in board["columns"]] == ["digits_robust", "digits_vqa"]
    assert board["rows"][0]["model"] == "k-nn v1"
    cell = board["rows"][0]["cells"]["digits_vqa"]
    assert cell["run_id"] == seeded.finished["k-nn"]
    assert cell["low"] < cell["value"] < cell["high"] and cell["n"] == 80
    assert get(visitor, "/leaderboard?suite=nothing")["rows"] == []


def test_the_catalogue_is_searched_with_ones_own_first(visitor: FlaskClient) -> None:
    found = get(visitor, "/tasks?search=digits")
    names = [task["name"] for task in found["tasks"]]
    assert names[0] == "digits"
    assert {"digits_vqa", "digits_sum"} <= set(names)
    assert found["tasks"][0]["kind"] == "group" and "digits_vqa" in found["tasks"][0]["members"]
    first = get(visitor, "/tasks?limit=2")
    assert len(first["tasks"]) == 2 < first["total"]
    assert all(task["own"] for task in first["tasks"])


def test_models_fleet_and_health(seeded: Seeded, visitor: FlaskClient) -> None:
    uris = {model["uri"] for model in get(visitor, "/models")["models"]}
    assert {"models:/centroid/1", "models:/k-nn/1"} <= uris
    fleet = get(visitor, "/fleet")
    assert [box["name"] for box in fleet["boxes"]] == ["gpu-box-1"]
    assert seeded.running in {lease["run_id"] for lease in fleet["leases"]}
    assert "token" not in fleet["leases"][0]
    assert seeded.queued in {job["run_id"] for job in fleet["queue"]}
    health = get(visitor, "/health")
    assert health["database"] is None and health["queue"] is None and health["boxes"] == 1


def test_health_names_the_part_that_is_away(
    seeded: Seeded, visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "unix:///nowhere/valkey.sock"
    monkeypatch.setitem(vars(seeded.world.services), "queue", EvaluationQueue(away, timeout_s=0.2))
    monkeypatch.setitem(vars(seeded.world.services), "events", EventLog(away, timeout_s=0.2))
    assert "does not answer" in get(visitor, "/health", 503)["queue"]
    assert get(visitor, "/evaluations?state=queued")["evaluations"][0]["position"] is None
    assert get(visitor, f"/evaluations/{seeded.running}/log")["lines"] == []


def test_a_worker_carries_a_part_from_claim_to_end(seeded: Seeded, visitor: FlaskClient) -> None:
    world = seeded.world
    run_id = world.submit(seeded.model, ["digits_vqa", "digits_sum"])
    world.services.queue.remove(run_id, "0")
    held = {"run_id": run_id, "part": "0", "token": world.services.queue.next_token()}
    order = post(visitor, "/worker/claim", {**held, "protocol": 1, "box": "b", "slot": "s", "gpus": []})
    assert order["tasks"] == ["digits_vqa", "digits_sum"] and order["model"]["adapter"] == "digits"
    task = {**held, "task": "digits_vqa"}
    post(visitor, "/worker/started", task)
    post(visitor, "/worker/started", task)  # repeated: the answer was lost
    post(visitor, "/worker/recording", task)
    post(visitor, "/worker/task-finished", {**task, "samples": 80, "metric": "exact_match", "score": 0.5})
    assert post(visitor, "/worker/heartbeat", held) == {"cancel": False}
    post(visitor, "/worker/started", {**held, "task": "digits_sum"})
    told = {"failure": "judge", "message": "no key", "log_tail": "end", "retryable": False}
    failed = post(visitor, "/worker/task-failed", {**held, "task": "digits_sum", **told})
    assert failed == {"state": "failed"}
    post(visitor, "/worker/part-finished", held)
    evaluation = world.services.store.get(run_id)
    assert [task.state for task in evaluation.tasks] == [State.FINISHED, State.FAILED]
    assert evaluation.tasks[1].failure == "judge" and evaluation.tasks[0].score == 0.5


def test_a_worker_with_an_older_token_is_refused(seeded: Seeded, visitor: FlaskClient) -> None:
    token = seeded.world.services.store.get(seeded.running).part("0").token
    held = {"run_id": seeded.running, "part": "0", "token": token - 1}
    for call, more in (
        ("heartbeat", {}),
        ("started", {"task": "digits_robust"}),
        ("claim", {"protocol": 1, "box": "b", "slot": "s"}),
    ):
        error = post(visitor, f"/worker/{call}", {**held, **more}, 409)["error"]
        assert error["class"] == "StaleTokenError"
    made_up = {**held, "token": 2**53, "protocol": 1, "box": "b", "slot": "s"}
    assert "never given out" in post(visitor, "/worker/claim", made_up, 400)["error"]["message"]
    assert error["details"]["minimum_token"] > token  # from here on the worker counts, when Redis lost its counter


@pytest.mark.parametrize(
    ("call", "body", "named"),
    [
        ("heartbeat", {"part": "0", "token": 1}, "run_id"),
        ("started", {"run_id": "r", "part": "0", "token": 1}, "task"),
        ("heartbeat", {"run_id": "r", "part": "0", "token": 0}, "token"),
        ("task-failed", {"run_id": "r", "part": "0", "token": 1, "task": "t", "failure": "bad luck"}, "failure"),
        ("claim", {"run_id": "r", "part": "0", "token": 1, "box": "b", "slot": "s"}, "protocol"),
    ],
)
def test_a_bad_worker_call_names_its_field(visitor: FlaskClient, call: str, body: dict[str, Any], named: str) -> None:
    assert named in post(visitor, f"/worker/{call}", body, 400)["error"]["message"]


def test_an_unknown_door_answers_in_json(visitor: FlaskClient) -> None:
    assert get(visitor, "/nothing", 404)["error"]["class"] == "NotFound"
