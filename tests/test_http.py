"""The client's side of the HTTP API against a real local server: errors become our classes, streams go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms import errors
from mlflow_lmms.client import Client, parse_events
from mlflow_lmms.errors import (
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    LmmsError,
    NotFoundError,
    StaleTokenError,
    UnauthenticatedError,
    UnavailableError,
)
from mlflow_lmms.http import Credentials, HttpApi, quoted, until_available
from mlflow_lmms.request import Seeds
from mlflow_lmms.states import FailureClass
from mlflow_lmms.work_order import PROTOCOL, ResolvedModel, WorkOrder
from mlflow_lmms.worker_api_client import HeldPart, WorkerApi

Answer = tuple[int, str, bytes]


class Server(ThreadingHTTPServer):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def tell(self, content: Any, status: int = 200) -> None:
        """Answer the next call with JSON, or with text as it is."""
        text = content if isinstance(content, str) else json.dumps(content)
        kind = "text/html" if isinstance(content, str) else "application/json"
        self.answers.append((status, kind, text.encode()))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.server.asked.append(
            {
                "method": self.command,
                "path": self.path,
                "headers": dict(self.headers),
                "body": json.loads(body) if body else None,
            }
        )
        status, kind, content = self.server.answers.pop(0) if self.server.answers else (500, "text/plain", b"unasked")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join(10)


@pytest.fixture
def api(server: Server) -> Iterator[HttpApi]:
    made = HttpApi(server.url + "/", Credentials())
    yield made
    made.session.close()


def own_errors() -> list[type[LmmsError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LmmsError)]
    assert len(kinds) > 10
    return kinds


def test_a_call_sends_and_returns_json(server: Server, api: HttpApi) -> None:
    server.tell({"a": 1})
    found = api.call(
        "POST", "/x", query={"q": "ä&b", "none": None}, body={"t": "名"}, headers={"Idempotency-Key": "k"}
    )
    assert found == {"a": 1}
    (asked,) = server.asked
    assert (asked["method"], asked["path"]) == ("POST", "/lmms/api/v1/x?q=%C3%A4%26b")
    assert asked["body"] == {"t": "名"}
    assert asked["headers"]["Idempotency-Key"] == "k"
    assert "Authorization" not in asked["headers"]


@pytest.mark.parametrize("kind", own_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_comes_back_in_its_class(server: Server, api: HttpApi, kind: type[LmmsError]) -> None:
    told = {"class": kind.__name__, "message": "what and why", "details": {"minimum_token": 7}}
    server.tell({"error": told}, kind.http_status)
    with pytest.raises(LmmsError, match=r"^what and why$|wants you to sign in") as caught:
        api.call("GET", "/x")
    assert type(caught.value) is kind
    if kind not in (UnavailableError, UnauthenticatedError):
        assert caught.value.details == {"minimum_token": 7}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequestError), (404, NotFoundError), (409, ConflictError), (418, LmmsError), (500, LmmsError)],
)
@pytest.mark.parametrize("name", ["NoSuchError", "Any", "SystemExit", "annotations", None])
def test_an_error_of_unknown_class_goes_by_its_status(
    server: Server, api: HttpApi, status: int, kind: type[LmmsError], name: str | None
) -> None:
    server.tell({"error": {"class": name, "message": "m"}}, status)
    with pytest.raises(LmmsError, match=r"^m$") as caught:
        api.call("GET", "/x")
    assert type(caught.value) is kind


@pytest.mark.parametrize("details", [None, [], "x", {"message": "m", "self": "s", "class": "c"}])
def test_odd_details_do_no_harm(server: Server, api: HttpApi, details: Any) -> None:
    server.tell({"error": {"class": "ConflictError", "message": "m", "details": details}}, 409)
    with pytest.raises(ConflictError, match=r"^m$"):
        api.call("GET", "/x")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("content", ["<html>Bad gateway</html>", {"error": {"message": "later"}}])
def test_a_server_that_cannot_answer_now_is_away(server: Server, api: HttpApi, status: int, content: Any) -> None:
    server.tell(content, status)
    with pytest.raises(UnavailableError, match=r"later|answered \d+"):
        api.call("GET", "/x")


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("content", ["<html>MLflow</html>", "[1]", ""])
def test_another_server_is_told_apart(server: Server, api: HttpApi, status: int, content: str) -> None:
    server.tell(content, status)
    with pytest.raises(LmmsError, match="is no MLflow server with our plugin"):
        api.call("GET", "/x")


def test_an_absent_server_is_named_without_its_password(free_port: Callable[[], int]) -> None:
    api = HttpApi(f"http://ada:geheim@127.0.0.1:{free_port()}", Credentials())
    with pytest.raises(UnavailableError, match=r"does not answer \(.*mlflow-lmms up") as caught:
        api.call("GET", "/x")
    assert "geheim" not in caught.value.message
    api.session.close()


@pytest.mark.parametrize(
    ("environ", "sent"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic YWRhOnB3"),
        ({"MLFLOW_TRACKING_USERNAME": "ada"}, None),
        ({}, None),
    ],
)
def test_mlflows_own_credentials_are_sent(server: Server, environ: dict[str, str], sent: str | None) -> None:
    api = HttpApi(server.url, Credentials.from_environment(environ))
    server.tell({})
    api.call("GET", "/x")
    assert server.asked[0]["headers"].get("Authorization") == sent
    api.session.close()


def test_a_name_is_one_segment_of_a_path() -> None:
    assert quoted("refcoco+/a b?c") == "refcoco%2B%2Fa%20b%3Fc"


def test_a_call_is_repeated_with_growing_pauses_while_the_server_is_away() -> None:
    pauses: list[float] = []
    answers: list[int | None] = [None] * 12 + [42]

    def call() -> int:
        answer = answers.pop(0)
        if answer is None:
            raise UnavailableError("away")
        return answer

    assert until_available(call, wait=pauses.append) == 42
    assert len(pauses) == 12
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.2, 5.0)


def test_a_call_is_given_up_when_it_is_no_longer_wanted() -> None:
    def call() -> int:
        raise UnavailableError("away")

    wanted = [True, True, False]
    with pytest.raises(UnavailableError):
        until_available(call, keep_trying=lambda: wanted.pop(0), wait=lambda pause: None)
    assert wanted == []


def test_another_error_is_not_repeated() -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        until_available(call)
    assert calls == [1]


HELD = HeldPart("run", "0", 7)


def test_a_workers_call_survives_an_absent_server_and_is_the_same_each_time(server: Server, api: HttpApi) -> None:
    server.tell("", 503)
    server.tell({"state": "queued"})
    worker = WorkerApi(api)
    state = worker.task_failed(HELD, "t", FailureClass.JUDGE, "m", "log", retryable=True)
    assert state == "queued"
    first, second = server.asked
    assert first["path"] == "/lmms/api/v1/worker/task-failed"
    assert first["headers"]["Idempotency-Key"] == second["headers"]["Idempotency-Key"]
    assert first["body"] == second["body"] == {
        "run_id": "run", "part": "0", "token": 7, "task": "t",
        "failure": "judge", "message": "m", "log_tail": "log", "retryable": True,
    }  # fmt: skip


def test_different_calls_have_different_keys(server: Server, api: HttpApi) -> None:
    worker = WorkerApi(api)
    for _ in range(5):
        server.tell({})
    worker.started(HELD, "t")
    worker.recording(HELD, "t")
    worker.started(HELD, "u")
    worker.started(HeldPart("run", "0", 8), "t")
    worker.part_finished(HELD)
    assert len({asked["headers"]["Idempotency-Key"] for asked in server.asked}) == 5


def test_a_worker_that_lost_its_part_is_told_the_token_it_needs(server: Server, api: HttpApi) -> None:
    told = {"class": "StaleTokenError", "message": "old", "details": {"minimum_token": 9}}
    server.tell({"error": told}, 409)
    with pytest.raises(StaleTokenError) as caught:
        WorkerApi(api).claim(HELD, box="b", slot="s", gpus=())
    assert caught.value.details["minimum_token"] == 9


ORDER = WorkOrder(
    run_id="run", experiment_id="1", part="0", token=7, attempt=1, tasks=("t",), all_tasks=("t",),
    model=ResolvedModel(label="m", name="m", version=None, adapter="dummy", model_args={}, gpus=0), task_folders=(),
    limit=None, offset=0, batch_size=1, num_fewshot=None, seeds=Seeds(), gen_kwargs=None, repeats=None, secrets=(),
    environment=None, chunk_size=8, thumbnail_bytes=0, deadline_s=60.0,
)  # fmt: skip


def test_worker_and_server_speak_the_lower_of_their_protocols(server: Server, api: HttpApi) -> None:
    refused = {"class": "InvalidRequestError", "message": "this server speaks worker protocol 1 and 0", "details": {}}
    server.tell({"error": refused}, 400)
    server.tell({"protocol": PROTOCOL - 1, "version": "0.9"})
    new = {"launch", "rescore", "no_progress_s", "phase_deadlines_s", "checkpoint"}
    server.tell(ORDER.model_dump(mode="json", exclude=new))
    assert WorkerApi(api).claim(HELD, box="b", slot="s", gpus=()) == ORDER
    claims = [asked["body"]["protocol"] for asked in server.asked if asked["path"].endswith("/claim")]
    assert claims == [PROTOCOL, PROTOCOL - 1]


def test_a_server_without_a_common_protocol_is_named_with_the_command_to_run(server: Server, api: HttpApi) -> None:
    refused = {"class": "InvalidRequestError", "message": "no", "details": {}}
    server.tell({"error": refused}, 400)
    server.tell({"protocol": PROTOCOL + 2, "version": "9.9"})
    with pytest.raises(ConfigurationError, match=r"pip install 'mlflow-lmms==9\.9'"):
        WorkerApi(api).claim(HELD, box="b", slot="s", gpus=())


def test_another_refusal_of_a_claim_is_told_as_it_is(server: Server, api: HttpApi) -> None:
    refused = {"class": "InvalidRequestError", "message": "token 9 was never given out", "details": {}}
    server.tell({"error": refused}, 400)
    server.tell({"protocol": PROTOCOL, "version": "1"})
    with pytest.raises(InvalidRequestError, match="never given out"):
        WorkerApi(api).claim(HELD, box="b", slot="s", gpus=())


def test_a_heartbeat_is_not_repeated(server: Server, api: HttpApi) -> None:
    server.tell("", 503)
    with pytest.raises(UnavailableError):
        WorkerApi(api).heartbeat(HELD)
    server.tell({"cancel": True})
    assert WorkerApi(api).heartbeat(HELD)
    assert len(server.asked) == 2


def parsed(text: str) -> list[dict[str, Any]]:
    return list(parse_events(iter(text.split("\n"))))


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ('id: 1-0\nevent: state\ndata: {"a": 1}\n\n', [{"id": "1-0", "kind": "state", "data": {"a": 1}}]),
        ('data:{"a":1}\n\n', [{"id": "", "kind": "message", "data": {"a": 1}}]),
        (": ping\n\nretry: 5\n\ndata: 1\n\n", [{"id": "", "kind": "message", "data": 1}]),
        ("data: [1,\ndata: 2]\n\n", [{"id": "", "kind": "message", "data": [1, 2]}]),
        ("id: 1\nevent: log\n\ndata: 2\n\n", [{"id": "1", "kind": "message", "data": 2}]),
        ("id: 1\ndata: 1\n\ndata: 2\n\n", [{"id": "1", "kind": "message", "data": n} for n in (1, 2)]),
        ('data: 1\n\nid: 2\ndata: {"cut', [{"id": "", "kind": "message", "data": 1}]),
        ("", []),
        ("data\nevent\n: only a comment\n\n", None),
    ],
)
def test_server_sent_events_are_read(text: str, events: list[dict[str, Any]] | None) -> None:
    if events is None:
        with pytest.raises(ValueError, match="Expecting value"):
            parsed(text)
    else:
        assert parsed(text) == events


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)
)


@given(st.lists(st.tuples(st.integers(1, 99), st.sampled_from(["state", "log"]), JSON), max_size=4))
def test_what_a_server_sends_is_what_is_read(sent: list[tuple[int, str, Any]]) -> None:
    text = "".join(f"id: {at}-0\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for at, kind, data in sent)
    assert parsed(text) == [{"id": f"{at}-0", "kind": kind, "data": data} for at, kind, data in sent]


def stream(*events: tuple[str, str, Any]) -> Answer:
    text = "".join(f"id: {i}\nevent: {k}\ndata: {json.dumps(d, ensure_ascii=False)}\n\n" for i, k, d in events)
    return 200, "text/event-stream", text.encode()


def test_a_stream_is_followed_over_a_broken_connection_to_its_end(server: Server) -> None:
    line = "数字 \u2028 and \x85 in one line"
    server.answers.append(stream(("1-0", "log", {"lines": [line]})))
    server.tell({"state": "running"})
    server.answers.append(stream(("2-0", "state", {"run_state": "finished"}), ("3-0", "log", {})))
    client = Client(server.url, Credentials())
    events = list(client.events("run"))
    assert [event["id"] for event in events] == ["1-0", "2-0"]
    assert events[0]["data"] == {"lines": [line]}
    first, _, again = server.asked
    assert first["path"] == "/lmms/events/runs/run"
    assert "Last-Event-ID" not in first["headers"]
    assert again["headers"]["Last-Event-ID"] == "1-0"


def test_a_stream_that_ended_while_nobody_looked_is_over(server: Server) -> None:
    server.answers.append(stream())
    server.tell({"state": "failed"})
    assert list(Client(server.url, Credentials()).events("run", after="9-0")) == []
    assert server.asked[0]["headers"]["Last-Event-ID"] == "9-0"


def test_a_run_that_may_not_be_seen_is_not_followed(server: Server) -> None:
    server.tell({"error": {"class": "NotFoundError", "message": "no such run"}}, 404)
    with pytest.raises(NotFoundError, match="no such run"):
        list(Client(server.url, Credentials()).events("run"))


def test_a_request_is_checked_before_it_is_sent_and_sent_without_defaults(server: Server) -> None:
    client = Client(server.url, Credentials())
    with pytest.raises(InvalidRequestError):
        client.submit(adapter="dummy")
    server.tell({"run_id": "r", "experiment_id": "1", "url": "u", "warnings": []}, 201)
    assert client.submit({"adapter": "dummy"}, tasks=["t"])["run_id"] == "r"
    assert [asked["body"] for asked in server.asked] == [{"adapter": "dummy", "tasks": ["t"]}]


def test_a_picture_is_bytes_and_a_missing_one_an_error(server: Server) -> None:
    client = Client(server.url, Credentials())
    server.answers.append((200, "image/png", b"\x89PNG"))
    assert client.media("run", "a/b", 3, 0) == b"\x89PNG"
    assert server.asked[0]["path"] == "/lmms/api/v1/evaluations/run/samples/a%2Fb/3/media/0"
    server.tell({"error": {"class": "NotFoundError", "message": "no picture"}}, 404)
    with pytest.raises(NotFoundError, match="no picture"):
        client.media("run", "a/b", 3, 1)
