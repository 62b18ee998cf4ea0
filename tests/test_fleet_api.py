"""The fleet over HTTP: what is told, what is hidden from whom, and what only administrators may change."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import fleet_world
import pytest
import requests
from evaluation_world import Seeded
from flask.testing import FlaskClient
from mlflow_process import ADMIN, ALICE, MlflowProcess

from mlflow_lmms.planner.fleet import GIB, Cause
from mlflow_lmms.queue_keys import BOX_STATE_KEY, job_id
from plugin_ui.fleet_status import fleet_status

API = "/lmms/api/v1"


@pytest.fixture
def holder(seeded: Seeded) -> Iterator[str]:
    """A run that holds a GPU of a made-up fleet; another is what `seeded.queued` waits behind."""
    connection = seeded.world.redis
    run_id = seeded.world.submit(seeded.model, ["digits_vqa"], gpus=1)
    seeded.world.services.queue.remove(run_id, "0")
    fleet_world.announce_fleet(connection, version("mlflow-lmms"))
    fleet_world.lease(connection, run_id, [fleet_world.uuid(0)])
    reason = f"GPUs of dgx-01 are kept for {job_id(run_id, '0')}, whose turn it is"
    fleet_world.wait(connection, seeded.queued, Cause.RESERVED_FOR_OTHER, reason)
    fleet_world.reserve(connection, seeded.queued, [fleet_world.uuid(1)])
    yield run_id
    fleet_world.clear(connection, run_id)
    seeded.world.services.lifecycle.cancel(run_id)


def fleet(visitor: FlaskClient) -> dict[str, Any]:
    answer = visitor.get(f"{API}/fleet")
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


def test_boxes_with_gpus_and_their_conditions(holder: str, visitor: FlaskClient) -> None:
    boxes = {box["name"]: box for box in fleet(visitor)["boxes"]}
    assert {name: box["state"] for name, box in boxes.items()} == {
        "dgx-01": "open", "gone-03": "offline", "gpu-box-1": "open", "older-02": "open",
    }  # fmt: skip
    dgx = boxes["dgx-01"]
    assert (dgx["labels"], dgx["environments"], dgx["warning"]) == (["nvlink"], ["vllm"], None)
    busy, _, foreign, lost = dgx["gpus"]
    assert (busy["utilisation"], busy["temperature"], busy["power_w"]) == (93.0, 64.0, 612.0)
    assert foreign["foreign"] == 50 * GIB
    assert (lost["usable"], lost["problem"], lost["utilisation"]) == (False, "GPU is lost", None)
    assert f"pip install 'mlflow-lmms=={version('mlflow-lmms')}'" in boxes["older-02"]["warning"]
    assert boxes["gone-03"]["warning"] is None and boxes["gone-03"]["seen_at"] < dgx["seen_at"]


def test_who_holds_what_and_why_others_wait(seeded: Seeded, holder: str, visitor: FlaskClient) -> None:
    found = fleet(visitor)
    held = next(lease for lease in found["leases"] if lease["run_id"] == holder)
    assert (held["box"], held["gpus"], held["name"]) == ("dgx-01", [fleet_world.uuid(0)], "k-nn v1 · digits_vqa")
    assert "token" not in held
    waiting = next(entry for entry in found["queue"] if entry["run_id"] == seeded.queued)
    assert (waiting["gpus"], waiting["priority"], waiting["cause"]) == (4, "normal", "reserved_for_other")
    assert waiting["reason"] == "GPUs of dgx-01 are kept for k-nn v1 · digits_vqa, whose turn it is"
    assert found["at"] >= waiting["queued_at"] > 0
    assert found["reservation"]["run_id"] == seeded.queued
    assert found["reservation"]["gpus"] == [fleet_world.uuid(1)]


def test_of_unreadable_runs_nothing_but_their_presence_is_told(seeded: Seeded, holder: str) -> None:
    status = fleet_status(seeded.world.services, frozenset({"no-such"}), version="1", now=0.0)
    assert any(fleet_world.uuid(0) in lease.gpus for lease in status.leases)
    assert status.queue and status.reservation is not None
    assert holder not in repr(status) and seeded.queued not in repr(status)
    assert "k-nn" not in repr(status)
    assert {entry.reason for entry in status.queue} == {None}


def test_a_box_is_paused_drained_resumed_and_only_an_absent_one_forgotten(
    seeded: Seeded, holder: str, visitor: FlaskClient
) -> None:
    connection = seeded.world.redis
    for change, state in (("pause", "paused"), ("drain", "drained")):
        answer = visitor.post(f"{API}/fleet/boxes/dgx-01/{change}", json={"reason": "a fan is broken"})
        assert answer.get_json() == {"box": "dgx-01", "state": state}
        assert connection.hget(BOX_STATE_KEY, "dgx-01") == state.encode()
        box = next(box for box in fleet(visitor)["boxes"] if box["name"] == "dgx-01")
        assert (box["state"], box["reason"]) == (state, "a fan is broken")
        assert box["changed_at"] > 0
    assert visitor.post(f"{API}/fleet/boxes/dgx-01/resume", json={}).get_json()["state"] == "open"
    assert connection.hget(BOX_STATE_KEY, "dgx-01") is None
    assert visitor.delete(f"{API}/fleet/boxes/dgx-01").status_code == 409
    assert visitor.delete(f"{API}/fleet/boxes/gone-03").status_code == 200
    assert "gone-03" not in {box["name"] for box in fleet(visitor)["boxes"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("nowhere/pause", {}, 404, "dgx-01"),
        ("dgx-01/explode", {}, 404, "pause, drain, resume"),
        ("dgx-01/pause", {"reason": 3}, 400, "reason"),
        ("dgx-01/pause", {"force": True}, 400, "force"),
    ],
)
def test_faulty_changes_are_named(
    holder: str, visitor: FlaskClient, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    answer = visitor.post(f"{API}/fleet/boxes/{path}", json=body)
    assert answer.status_code == status and told in answer.text


def test_use_by_user_box_and_run(seeded: Seeded, visitor: FlaskClient) -> None:
    def rows(by: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = visitor.get(f"{API}/fleet/use?by={by}&days=7").get_json()["use"]
        return found

    assert seeded.finished["k-nn"] in {row["name"] for row in rows("run")}
    assert {row["name"] for row in rows("box")} >= {"gpu-box-1"}
    assert sum(row["attempts"] for row in rows("user")) == sum(row["attempts"] for row in rows("run"))
    assert visitor.get(f"{API}/fleet/use?by=colour").status_code == 400
    assert visitor.get(f"{API}/fleet/use?days=0").status_code == 400


def test_quotas_are_set_shown_and_dropped(visitor: FlaskClient) -> None:
    assert visitor.put(f"{API}/fleet/quotas", json={"gpus": 8}).status_code == 200
    assert visitor.put(f"{API}/fleet/quotas/alice", json={"gpus": 2, "gpu_hours": 40.5}).status_code == 200
    found = visitor.get(f"{API}/fleet/quotas").get_json()
    assert found["default"] == {"gpus": 8, "gpu_hours": None}
    assert found["users"] == {"alice": {"gpus": 2, "gpu_hours": 40.5}}
    assert visitor.delete(f"{API}/fleet/quotas/alice").status_code == 200
    assert visitor.get(f"{API}/fleet/quotas").get_json()["users"] == {}
    assert visitor.put(f"{API}/fleet/quotas", json={}).status_code == 200
    assert visitor.put(f"{API}/fleet/quotas", json={"gpus": -1}).status_code == 400


def test_finished_tasks_are_scored_again(seeded: Seeded, visitor: FlaskClient) -> None:
    run_id = seeded.world.finished_run(seeded.model, 0.9)
    answer = visitor.post(f"{API}/evaluations/{run_id}/rescore", json={"tasks": ["digits_vqa"]})
    assert answer.get_json() == {"run_id": run_id, "tasks": ["digits_vqa"]}
    evaluation = visitor.get(f"{API}/evaluations/{run_id}").get_json()
    assert {task["task"]: task["state"] for task in evaluation["tasks"]} == {
        "digits_vqa": "queued", "digits_robust": "finished",
    }  # fmt: skip
    seeded.world.services.lifecycle.cancel(run_id)
    assert visitor.post(f"{API}/evaluations/{seeded.queued}/rescore", json={}).status_code == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/fleet/boxes/dgx-01/pause"),
        ("POST", "/fleet/boxes/dgx-01/drain"),
        ("POST", "/fleet/boxes/dgx-01/resume"),
        ("DELETE", "/fleet/boxes/dgx-01"),
        ("PUT", "/fleet/quotas"),
        ("PUT", "/fleet/quotas/alice"),
        ("DELETE", "/fleet/quotas/alice"),
    ],
)
def test_only_administrators_change_the_fleet(auth_server: MlflowProcess, method: str, path: str) -> None:
    url = f"{auth_server.url}{API}{path}"
    assert requests.request(method, url, json={}, timeout=30).status_code == 401
    refused = requests.request(method, url, json={}, auth=ALICE, timeout=30)
    assert refused.status_code == 403
    assert "alice is no administrator" in refused.json()["error"]["message"]
    assert requests.request(method, url, json={}, auth=ADMIN, timeout=30).status_code in (200, 404)


def test_users_see_the_fleet_and_their_own_use_and_quota(auth_server: MlflowProcess) -> None:
    for user, limit in (("alice", 1), ("bob", 2)):
        url = f"{auth_server.url}{API}/fleet/quotas/{user}"
        requests.put(url, json={"gpus": limit}, auth=ADMIN, timeout=30).raise_for_status()
    seen = requests.get(f"{auth_server.url}{API}/fleet/quotas", auth=ALICE, timeout=30).json()
    assert set(seen["users"]) == {"alice"}
    assert set(requests.get(f"{auth_server.url}{API}/fleet/quotas", auth=ADMIN, timeout=30).json()["users"]) == {
        "alice",
        "bob",
    }
    assert requests.get(f"{auth_server.url}{API}/fleet", auth=ALICE, timeout=30).status_code == 200
    page = requests.get(f"{auth_server.url}/lmms/fleet?box=x&change=drain", auth=ALICE, timeout=30)
    assert page.status_code == 200 and "Drain" not in page.text
    change = requests.post(f"{auth_server.url}/lmms/fleet/boxes/x", data={"change": "drain"}, auth=ALICE, timeout=30)
    assert change.status_code == 403
