"""One sign-in opens MLflow's page, its APIs, artifacts, our pages and live events; permissions hold in all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests
from mlflow_process import ADMIN, ALICE, BOB, MlflowProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mlflow_lmms.live_events import EventLog

ARTIFACT = b"the model read 7"


@dataclass(frozen=True)
class Runs:
    """One run that Alice may read and one that she may not; both with an artifact and live events."""

    open_experiment: str
    open_run: str
    closed_experiment: str
    closed_run: str


@pytest.fixture(scope="module")
def runs(auth_server: MlflowProcess, valkey: str) -> Runs:
    ids = []
    for name in ("open to all", "closed to Alice"):
        experiment, run = auth_server.new_run(name)
        upload = f"{auth_server.url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/lmms/note.txt"
        requests.put(upload, data=ARTIFACT, auth=ADMIN, timeout=30).raise_for_status()
        EventLog(valkey).append(run, "state", {"state": "queued"}, feed={"experiment_id": experiment})
        ids += [experiment, run]
    auth_server.permit(ids[2], ALICE, "DENY")
    return Runs(*ids)


@pytest.fixture
def alice(auth_server: MlflowProcess) -> Iterator[requests.Session]:
    """Alice, signed in through the page as a browser does it."""
    with requests.Session() as session:
        answer = session.post(
            f"{auth_server.url}/lmms/login",
            data={"username": ALICE[0], "password": ALICE[1], "next": "/lmms/evaluations"},
            headers={"Origin": auth_server.url},
            allow_redirects=False,
            timeout=30,
        )
        assert (answer.status_code, answer.headers["Location"]) == (303, "/lmms/evaluations")
        yield session


def paths(server: MlflowProcess, experiment: str, run: str) -> dict[str, str]:
    """Every kind of door that shows something of one run."""
    root, stored = server.url, f"{experiment}/{run}/artifacts/lmms/note.txt"
    return {
        "our page": f"{root}/lmms/evaluations?experiment={experiment}",
        "MLflow's ajax API": f"{root}/ajax-api/2.0/mlflow/runs/get?run_id={run}",
        "REST": f"{root}/api/2.0/mlflow/runs/get?run_id={run}",
        "artifact page": f"{root}/get-artifact?run_id={run}&path=lmms/note.txt",
        "native artifact route": f"{root}/api/2.0/mlflow-artifacts/artifacts/{stored}",
        "our artifact route": f"{root}/lmms/api/v1/evaluations/{run}/artifacts/lmms/note.txt",
        "live events": f"{root}/lmms/events/runs/{run}",
    }


def status(session: requests.Session, url: str) -> int:
    with session.get(url, stream=True, timeout=30) as answer:
        return answer.status_code


def bearer(token: str) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    return session


def basic(user: tuple[str, str]) -> requests.Session:
    session = requests.Session()
    session.auth = user
    return session


def make_token(session: requests.Session, server: MlflowProcess) -> str:
    answer = session.post(f"{server.url}/lmms/api/v1/tokens", json={"days": 1}, timeout=30)
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


@pytest.mark.parametrize("door", ["session", "basic", "bearer"])
def test_one_sign_in_opens_every_door(
    auth_server: MlflowProcess, runs: Runs, alice: requests.Session, door: str
) -> None:
    session = {"session": lambda: alice, "basic": lambda: basic(ALICE)}.get(
        door, lambda: bearer(make_token(basic(ALICE), auth_server))
    )()
    opened = {
        name: status(session, url) for name, url in paths(auth_server, runs.open_experiment, runs.open_run).items()
    }
    assert opened == dict.fromkeys(opened, 200)
    page = session.get(f"{auth_server.url}/", headers={"Accept": "text/html"}, timeout=30)
    assert page.status_code == 200
    assert '<div id="root"' in page.text


def test_an_unreadable_run_is_closed_at_every_door(
    auth_server: MlflowProcess, runs: Runs, alice: requests.Session
) -> None:
    doors = paths(auth_server, runs.closed_experiment, runs.closed_run)
    assert status(basic(BOB), doors["our artifact route"]) == 200, "Bob may, so a refusal is about Alice"
    for session in (alice, basic(ALICE), bearer(make_token(basic(ALICE), auth_server))):
        opened = {name: status(session, url) for name, url in doors.items()}
        opened.pop("our page")  # it lists nothing, see below
        assert set(opened.values()) <= {403, 404}, opened
    assert runs.closed_run not in alice.get(doors["our page"], timeout=30).text


def test_reading_is_not_changing(auth_server: MlflowProcess, runs: Runs, alice: requests.Session) -> None:
    url = f"{auth_server.url}/lmms/api/v1/evaluations/{runs.open_run}/cancel"
    answer = alice.post(url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30)
    assert answer.status_code == 403
    assert "EDIT" in answer.json()["error"]["message"]


def test_a_websocket_takes_the_same_sign_in(auth_server: MlflowProcess, runs: Runs, alice: requests.Session) -> None:
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in alice.cookies)
    address = auth_server.url.replace("http", "ws")
    headers = {"Cookie": cookies}
    with connect(f"{address}/lmms/events/runs/{runs.open_run}", additional_headers=headers) as socket:
        assert '"state": "queued"' in str(socket.recv(timeout=20))
    for run, sent in ((runs.closed_run, headers), (runs.open_run, {})):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"{address}/lmms/events/runs/{run}", additional_headers=sent),
        ):
            pass
        assert refused.value.response.status_code == 403


def test_nobody_gets_in_without_signing_in(auth_server: MlflowProcess, runs: Runs) -> None:
    doors = paths(auth_server, runs.open_experiment, runs.open_run)
    session = requests.Session()
    opened = {name: status(session, url) for name, url in doors.items()}
    assert opened == dict.fromkeys(opened, 401)
    for wrong in (basic((ALICE[0], "wrong")), bearer("wrong"), bearer("a.b.c")):
        assert status(wrong, doors["REST"]) == 401
        assert status(wrong, doors["live events"]) == 401
        assert status(wrong, doors["our artifact route"]) == 401


def test_a_browser_is_sent_to_the_sign_in_page_and_back(auth_server: MlflowProcess) -> None:
    browser = requests.Session()
    browser.headers.update({"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"})
    for wanted in ("/", "/lmms/evaluations?state=failed"):
        answer = browser.get(f"{auth_server.url}{wanted}", timeout=30)
        assert answer.history[0].status_code == 302
        assert "Sign in" in answer.text
        found = re.search(r'name="next" value="([^"]*)"', answer.text)
        assert found is not None
        assert found[1] == wanted


def test_a_page_whose_session_ended_gets_no_password_window(auth_server: MlflowProcess) -> None:
    url = f"{auth_server.url}/ajax-api/2.0/mlflow/runs/get?run_id=x"
    script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    assert "WWW-Authenticate" not in requests.get(url, headers=script, timeout=30).headers
    assert "WWW-Authenticate" in requests.get(url, timeout=30).headers


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/\tx", "evil"])
def test_signing_in_never_leads_to_another_site(auth_server: MlflowProcess, target: str) -> None:
    answer = requests.post(
        f"{auth_server.url}/lmms/login",
        data={"username": BOB[0], "password": BOB[1], "next": target},
        allow_redirects=False,
        timeout=30,
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_a_wrong_password_opens_nothing(auth_server: MlflowProcess) -> None:
    answer = requests.post(f"{auth_server.url}/lmms/login", data={"username": "alice", "password": "no"}, timeout=30)
    assert answer.status_code == 401
    assert "No user has this name and password." in answer.text
    assert "Set-Cookie" not in answer.headers


def test_signing_out_ends_the_session(auth_server: MlflowProcess, alice: requests.Session) -> None:
    url = f"{auth_server.url}/lmms/evaluations"
    assert alice.get(url, timeout=30).status_code == 200
    answer = alice.post(f"{auth_server.url}/lmms/logout", allow_redirects=False, timeout=30)
    assert answer.status_code == 303
    assert alice.get(url, timeout=30).status_code == 401


def test_a_new_password_ends_old_sessions_and_tokens(auth_server: MlflowProcess) -> None:
    carol, new = ("carol", "a-long-password-of-carol"), "another-long-password"
    auth_server.add_user(carol)
    url, login = f"{auth_server.url}/lmms/evaluations", f"{auth_server.url}/lmms/login"
    here, there = requests.Session(), requests.Session()
    for session in (here, there):
        session.post(login, data={"username": carol[0], "password": carol[1]}, timeout=30)
        assert status(session, url) == 200
    token = bearer(make_token(here, auth_server))
    assert status(token, url) == 200

    form = {"current": carol[1], "new": new, "repeat": new}
    for wrong in ({"current": "no"}, {"repeat": "different"}, {"new": "short", "repeat": "short"}):
        refused = here.post(f"{auth_server.url}/lmms/password", data=form | wrong, timeout=30)
        assert refused.status_code == 400
    changed = here.post(f"{auth_server.url}/lmms/password", data=form, timeout=30)
    assert "The password is changed" in changed.text
    assert status(here, url) == 200, "the session that changed it goes on"
    assert status(there, url) == 401
    assert status(token, url) == 401
    assert status(basic((carol[0], new)), url) == 200
    assert status(basic(carol), url) == 401


def test_a_token_cannot_make_another_one(auth_server: MlflowProcess) -> None:
    session = bearer(make_token(basic(ALICE), auth_server))
    answer = session.post(f"{auth_server.url}/lmms/api/v1/tokens", json={}, timeout=30)
    assert answer.status_code == 403
    answer = basic(ALICE).post(f"{auth_server.url}/lmms/api/v1/tokens", json={"days": 0}, timeout=30)
    assert answer.status_code == 400


def test_the_feed_shows_only_readable_runs(auth_server: MlflowProcess, runs: Runs) -> None:
    seen = {}
    for user in (ALICE, BOB):
        url = f"{auth_server.url}/lmms/events/feed?after=0-0"
        found: set[str] = set()
        with basic(user).get(url, stream=True, timeout=30) as answer:
            for line in answer.iter_lines():
                found |= {run for run in (runs.open_run, runs.closed_run) if run.encode() in line}
                if runs.open_run in found and (user is ALICE or runs.closed_run in found):
                    break
        seen[user[0]] = found
    assert seen == {"alice": {runs.open_run}, "bob": {runs.open_run, runs.closed_run}}


def test_the_cookie_is_safe(auth_server: MlflowProcess) -> None:
    answer = requests.post(
        f"{auth_server.url}/lmms/login",
        data={"username": BOB[0], "password": BOB[1]},
        headers={"X-Forwarded-Proto": "https"},
        allow_redirects=False,
        timeout=30,
    )
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" in cookie
