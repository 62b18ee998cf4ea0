"""Foreign hosts, foreign pages and foreign machines are refused; what answers carry; the static prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import requests
from mlflow_process import ADMIN, BOB, MlflowProcess
from starlette.types import ASGIApp
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from mlflow_lmms.live_events import EventLog
from plugin_ui.asgi import FrontApp
from plugin_ui.origin_guard import OriginGuard, is_loopback

EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def prefixed_server(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> Iterator[MlflowProcess]:
    """A server below ``/team/mlflow``, with users."""
    server = MlflowProcess(tmp_path_factory.mktemp("prefixed"), valkey, auth=True, prefix="/team/mlflow").start()
    server.add_user(BOB)
    yield server
    server.stop()


@pytest.mark.parametrize(
    "path", ["/lmms/evaluations", "/lmms/api/v1/tasks", "/lmms/events/feed", "/", "/get-artifact"]
)
def test_a_foreign_host_name_is_refused(open_server: MlflowProcess, path: str) -> None:
    for host in ("evil.example", f"evil.example:{open_server.port}", ""):
        answer = requests.get(f"{open_server.url}{path}", headers={"Host": host}, timeout=30)
        assert answer.status_code in (400, 403), host
    with requests.get(f"{open_server.url}{path}", headers={"Host": "localhost"}, stream=True, timeout=30) as answer:
        assert answer.status_code in (200, 400)  # 400: /get-artifact without a run


FOREIGN = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: " ".join(headers.values()))
def test_a_foreign_page_changes_nothing(open_server: MlflowProcess, headers: dict[str, str]) -> None:
    experiment, run = open_server.new_run(f"attacked by {headers}")
    for path, body in (
        (f"/lmms/evaluations/{run}/cancel", {}),
        ("/lmms/api/v1/evaluations", {"adapter": "x", "tasks": ["y"]}),
        ("/api/2.0/mlflow/runs/delete", {"run_id": run}),
        ("/ajax-api/2.0/mlflow/runs/delete", {"run_id": run}),
    ):
        answer = requests.post(f"{open_server.url}{path}", json=body, headers=headers, timeout=30)
        assert answer.status_code == 403, path
    found = requests.get(f"{open_server.url}/api/2.0/mlflow/runs/get", params={"run_id": run}, timeout=30).json()
    assert found["run"]["info"]["lifecycle_stage"] == "active"
    assert found["run"]["info"]["experiment_id"] == experiment


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}])
def test_our_own_page_and_programs_change_things(open_server: MlflowProcess, headers: dict[str, str]) -> None:
    _, run = open_server.new_run(f"changed by {headers}")
    body = {"run_id": run}
    answer = requests.post(
        f"{open_server.url}/ajax-api/2.0/mlflow/runs/delete", json=body, headers=headers, timeout=30
    )
    assert answer.status_code == 200
    own = {"Origin": open_server.url}
    answer = requests.post(f"{open_server.url}/api/2.0/mlflow/runs/restore", json=body, headers=own, timeout=30)
    assert answer.status_code == 200


def test_a_foreign_page_reads_no_live_events(open_server: MlflowProcess, valkey: str) -> None:
    _, run = open_server.new_run("listened to")
    EventLog(valkey).append(run, "state", {"state": "queued"})
    url = f"{open_server.url}/lmms/events/runs/{run}"
    for headers in ({"Origin": EVIL}, {"Sec-Fetch-Site": "cross-site"}):
        with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
            assert answer.status_code == 403
        with pytest.raises(InvalidStatus), connect(url.replace("http", "ws"), additional_headers=headers):
            pass
    with connect(url.replace("http", "ws"), origin=Origin(open_server.url)) as websocket:
        assert "queued" in str(websocket.recv(timeout=20))


@pytest.mark.parametrize(
    ("peer", "status"),
    [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.7", 403), ("203.0.113.9", 403)],
)
@pytest.mark.parametrize("path", ["/", "/lmms/evaluations", "/api/2.0/mlflow/runs/search"])
def test_without_sign_in_only_this_machine_is_served(peer: str, status: int, path: str) -> None:
    assert asyncio.run(_status(_front(loopback_only=True), peer, path)) == status
    assert asyncio.run(_status(_front(loopback_only=False), peer, path)) == 200


async def _status(app: ASGIApp, peer: str, path: str) -> int:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")], "client": (peer, 9)}
    await app(scope, receive, send)
    return int(sent[0]["status"])


def _front(*, loopback_only: bool) -> FrontApp:
    async def served(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    unused: Any = None
    guard = OriginGuard(lambda host: host == "localhost", lambda origin: False)
    return FrontApp(served, served, unused, unused, guard, "", loopback_only, [], [])


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"origin": "https://box", "host": "box"}, False),
        ({"origin": "https://box", "host": "box:443"}, False),
        ({"origin": "http://box:5000", "host": "box:5000"}, False),
        ({"origin": "http://box:5000", "host": "box:5001"}, True),
        ({"origin": "https://box.evil.example", "host": "box"}, True),
        ({"origin": "https://partner.example", "host": "box"}, False),
        ({"origin": EVIL, "host": "box", "authorization": "Bearer x"}, False),
        ({"origin": EVIL, "host": "box", "authorization": "Basic x"}, True),
        ({"origin": "http://[::1", "host": "box"}, True),
        ({"origin": "null", "host": "box"}, True),
        ({"origin": "null", "host": ""}, True),
        ({"host": "box"}, False),
    ],
)
def test_the_rules_on_origins(headers: dict[str, str], refused: bool) -> None:
    guard = OriginGuard(lambda host: True, lambda origin: origin == "https://partner.example")
    assert (guard.bad_origin("POST", headers) is not None) is refused
    assert guard.bad_origin("GET", headers) is None
    assert (guard.bad_origin("GET", headers, guard_reads=True) is not None) is refused


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "0.0.0.0", "", "localhost.example", "::", "1.2.3.4.5", "::ffff:10.0.0.1"]
)
def test_what_is_not_loopback(address: str) -> None:
    assert not is_loopback(address)


def test_pages_load_nothing_from_elsewhere(open_server: MlflowProcess) -> None:
    for path in ("/lmms/evaluations", "/lmms/no-such-page", "/lmms/api/v1/tasks"):
        headers = requests.get(f"{open_server.url}{path}", timeout=60).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["Referrer-Policy"] == "same-origin"


def test_errors_are_pages_or_json(open_server: MlflowProcess) -> None:
    page = requests.get(f"{open_server.url}/lmms/no-such-page", timeout=30)
    assert (page.status_code, page.headers["Content-Type"].split(";")[0]) == (404, "text/html")
    answer = requests.get(f"{open_server.url}/lmms/api/v1/no-such-thing", timeout=30)
    assert answer.status_code == 404
    assert answer.json()["error"]["class"] == "NotFound"
    answer = requests.delete(f"{open_server.url}/lmms/api/v1/evaluations", timeout=30)
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]
    answer = requests.get(f"{open_server.url}/lmms/api/v1/evaluations/no-such-run", timeout=30)
    assert (answer.status_code, answer.json()["error"]["class"]) == (404, "NotFoundError")


def test_everything_lives_below_the_static_prefix(prefixed_server: MlflowProcess, valkey: str) -> None:
    root = prefixed_server.url
    _, run = prefixed_server.new_run("prefixed")
    EventLog(valkey).append(run, "state", {"state": "queued"})
    with requests.Session() as session:
        session.headers["Accept"] = "text/html"
        page = session.get(f"{root}/lmms/evaluations?state=failed", timeout=60)
        assert page.url == f"{root}/lmms/login?next=%2Fteam%2Fmlflow%2Flmms%2Fevaluations%3Fstate%3Dfailed"
        form = {"username": BOB[0], "password": BOB[1], "next": "/team/mlflow/lmms/evaluations?state=failed"}
        page = session.post(page.url, data=form, timeout=60)
        assert (page.status_code, page.url) == (200, f"{root}/lmms/evaluations?state=failed")
        assert "/team/mlflow/lmms/static/" in page.text
        mlflow_page = session.get(f"{root}/", timeout=60).text
        assert '<script defer src="/team/mlflow/lmms/static/sidebar.js" data-root="/team/mlflow"' in mlflow_page
        assert session.get(f"{root}/lmms/static/sidebar.js", timeout=60).status_code == 200
        with session.get(f"{root}/lmms/events/runs/{run}", stream=True, timeout=60) as answer:
            assert answer.status_code == 200
            assert any(b"queued" in line for line in answer.iter_lines(chunk_size=None))
        bare = root.removesuffix("/team/mlflow")
        for path in ("/lmms/evaluations", "/lmms/events/feed"):
            assert session.get(f"{bare}{path}", timeout=60).status_code in (403, 404)


def test_the_tabs_can_be_switched_off(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> None:
    server = MlflowProcess(tmp_path_factory.mktemp("plain"), valkey, environ={"MLFLOW_LMMS_SIDEBAR": "false"}).start()
    try:
        assert "sidebar.js" not in requests.get(f"{server.url}/", timeout=60).text
    finally:
        server.stop()


def test_the_tabs_script_is_added_once(open_server: MlflowProcess) -> None:
    first = requests.get(f"{open_server.url}/", timeout=60)
    assert first.text.count("sidebar.js") == 1
    assert int(first.headers["Content-Length"]) == len(first.content)
    again = requests.get(f"{open_server.url}/", headers={"If-None-Match": first.headers["ETag"]}, timeout=60)
    assert again.status_code == 304


def test_a_body_is_refused_before_it_is_read(open_server: MlflowProcess) -> None:
    url = f"{open_server.url}/lmms/api/v1/evaluations"
    with requests.Session() as session:
        request = session.prepare_request(requests.Request("POST", url, headers={"Content-Length": str(2**40)}))
        request.headers["Content-Length"] = str(2**40)
        assert session.send(request, timeout=30).status_code == 413
    answer = requests.post(url, data=iter([b"{}"]), timeout=30)
    assert (answer.status_code, answer.json()["error"]["class"]) == (411, "InvalidRequestError")


def test_workspaces_are_kept_apart(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> None:
    server = MlflowProcess(
        tmp_path_factory.mktemp("workspaces"), valkey, auth=True, environ={"MLFLOW_ENABLE_WORKSPACES": "true"}
    ).start()
    try:
        team = requests.Session()
        team.auth = ADMIN
        team.headers["X-MLFLOW-WORKSPACE"] = "team-a"
        root = f"{server.url}/api/2.0/mlflow"
        workspaces = f"{server.url}/api/3.0/mlflow/workspaces"
        requests.post(workspaces, json={"name": "team-a"}, auth=ADMIN, timeout=30).raise_for_status()
        made = team.post(f"{root}/experiments/create", json={"name": "of team a"}, timeout=30)
        assert made.status_code == 200, made.text
        run = team.post(f"{root}/runs/create", json=made.json(), timeout=30).json()["run"]["info"]["run_id"]
        EventLog(valkey).append(run, "state", {"state": "queued"})
        events = f"{server.url}/lmms/events/runs/{run}"
        asked = {"headers": {"X-MLFLOW-WORKSPACE": "team-a"}}, {"params": {"workspace": "team-a"}}
        for inside in asked:
            with requests.get(events, auth=ADMIN, stream=True, timeout=30, **inside) as answer:  # type: ignore[arg-type]
                assert answer.status_code == 200
        for outside in ({}, {"headers": {"X-MLFLOW-WORKSPACE": "nobodys"}}):
            with requests.get(events, auth=ADMIN, stream=True, timeout=30, **outside) as answer:  # type: ignore[arg-type]
                assert answer.status_code == 404
    finally:
        server.stop()
