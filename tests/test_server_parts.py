"""Tokens, the reaper's thread, and how callers are remembered: the small parts of the server by themselves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import jwt
import pytest
from flask import Flask
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from mlflow_lmms.errors import UnavailableError
from plugin_ui import authentication, mlflow_server, permissions
from plugin_ui.access_tokens import TokenClaims, make_token, read_token
from plugin_ui.event_endpoint import EventEndpoint, Subscription
from plugin_ui.event_hub import EventHub
from plugin_ui.reaper_thread import ReaperThread
from plugin_ui.sign_in import is_own_page

CLAIMS = TokenClaims("alice", "0123456789abcdef")


def test_a_token_says_who_it_is_of_until_it_ends() -> None:
    token, expires = make_token("secret", CLAIMS, days=2)
    assert read_token("secret", token) == CLAIMS
    assert expires == pytest.approx(time.time() + 2 * 24 * 3600, abs=5)
    old, _ = make_token("secret", CLAIMS, days=1, now=time.time() - 25 * 3600)
    assert read_token("secret", old) is None


def test_only_our_own_tokens_count() -> None:
    token, _ = make_token("secret", CLAIMS, days=1)
    content = jwt.decode(token, options={"verify_signature": False})
    assert read_token("another secret", token) is None
    assert read_token("secret", token[:-3] + "abc") is None
    assert read_token("secret", jwt.encode(content, "", "none")) is None
    key_by_hand = jwt.encode(content, "secret" * 8, "HS256")
    assert read_token("secret" * 8, key_by_hand) is None, "the session's secret itself signs no token"


@pytest.mark.parametrize("missing", ["sub", "exp", "scope", "fpr", "iss"])
def test_a_token_must_say_everything(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = jwt.encode

    def without(content: dict[str, object], key: bytes, algorithm: str) -> str:
        return encode({name: value for name, value in content.items() if name != missing}, key, algorithm)

    monkeypatch.setattr("plugin_ui.access_tokens.jwt.encode", without)
    token, _ = make_token("secret", CLAIMS, days=1)
    assert read_token("secret", token) is None


@pytest.mark.parametrize(
    "problem",
    [
        UnavailableError("the queue server does not answer"),
        OperationalError("SELECT 1", {}, Exception("gone")),
        MlflowException("the database is away"),
        ConnectionRefusedError(),
    ],
)
def test_the_reaper_outlives_whatever_is_away(problem: Exception, caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[float] = []
    enough = threading.Event()

    def tick() -> Iterator[str]:
        ticks.append(time.monotonic())
        if len(ticks) < 3:
            raise problem
        enough.set()
        yield "run 1: part 0 lost its worker"

    thread = ReaperThread(tick, period_s=0.01)
    thread.start()
    assert enough.wait(20)
    thread.stop()
    assert caplog.text.count(type(problem).__name__) == 2
    assert ticks[2] - ticks[1] > 0.015, "it waits longer after a failure"


def test_a_stopped_reaper_ticks_no_more() -> None:
    ticked = threading.Event()

    def tick() -> list[str]:
        ticked.set()
        return []

    thread = ReaperThread(tick, period_s=0.01)
    thread.start()
    assert ticked.wait(20)
    thread.stop()
    thread._thread.join(20)
    assert not thread._thread.is_alive()


@pytest.mark.parametrize(
    "target", ["/", "/lmms/evaluations?state=failed", "/team/mlflow/", "/a//b", "/?next=https://x"]
)
def test_own_pages(target: str) -> None:
    assert is_own_page(target)


@pytest.mark.parametrize(
    "target", ["", "x", "//evil", "///evil", "/\\evil", "\\\\evil", "https://evil", "/\r\nx", "/\x00", "javascript:x"]
)
def test_other_peoples_pages(target: str) -> None:
    assert not is_own_page(target)


def test_a_password_is_checked_once_per_request_and_not_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def check(username: str, password: str) -> mlflow_server.User:
        checked.append(threading.current_thread().name)
        return mlflow_server.User(username, False, "0123456789abcdef")

    monkeypatch.setattr(mlflow_server, "check_password", check)
    header = "Basic YWxpY2U6eA=="

    async def request() -> None:
        await authentication.remember_caller(header)
        for _ in range(3):
            user = authentication._user_of_header(header)
            assert user is not None and user.username == "alice"

    async def two_requests() -> None:
        await asyncio.gather(asyncio.create_task(request()), asyncio.create_task(request()))

    asyncio.run(two_requests())
    assert len(checked) == 2, "once for each"
    assert threading.current_thread().name not in checked


def test_an_open_stream_asks_again_who_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    answers = {"1": True, "2": False}

    def may(permission: permissions.Permission, experiment_id: str, username: str) -> bool:
        asked.append((experiment_id, username))
        return answers[experiment_id]

    monkeypatch.setattr(permissions, "allowed", may)

    async def scenario() -> None:
        endpoint = EventEndpoint(EventHub("redis://127.0.0.1:1"), Flask("x"), lambda run_id: False)
        subscription = Subscription("lmms:feed", None, False, "alice", None)
        for _ in range(3):
            assert await endpoint.may_read(subscription, "1")
            assert not await endpoint.may_read(subscription, "2")
        assert asked == [("1", "alice"), ("2", "alice")]
        answers["1"] = False
        assert await endpoint.may_read(subscription, "1")
        subscription.asked_at -= 61
        assert not await endpoint.may_read(subscription, "1")
        nobody = Subscription("lmms:feed", None, False, None, None)
        assert await endpoint.may_read(nobody, "2"), "without sign-in everybody may"

    asyncio.run(scenario())
