"""Live events over HTTP and WebSocket from a real server: resuming, outages, many viewers, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import requests
from mlflow_process import MlflowProcess
from websockets.sync.client import connect

from mlflow_lmms.live_events import EventLog
from mlflow_lmms.redis_server import EmbeddedRedis

Event = dict[str, object]


def events(answer: requests.Response) -> Iterator[Event]:
    """The server-sent events of an answer; what has no id has none here either."""
    event: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=None):
        name, _, value = line.decode().partition(": ")
        if line:
            event[name] = value
        elif "data" in event:
            yield {"sse_id": event.get("id"), "sse_event": event["event"], **json.loads(event["data"])}
            event = {}


def follow(server: MlflowProcess, run: str, **options: object) -> requests.Response:
    """Open a run's stream."""
    answer = requests.get(f"{server.url}/lmms/events/runs/{run}", stream=True, timeout=30, **options)  # type: ignore[arg-type]
    answer.raise_for_status()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return answer


def take(stream: Iterator[Event], count: int) -> list[Event]:
    return [next(stream) for _ in range(count)]


def test_a_stream_replays_resumes_and_goes_on(open_server: MlflowProcess, valkey: str) -> None:
    _, run = open_server.new_run("replayed")
    log = EventLog(valkey)
    for number in range(5):
        log.append(run, "progress", {"task": "a", "done": number, "total": 9}, part="0", token=1)
    with follow(open_server, run) as answer:
        first = take(events(answer), 3)
    assert [event["done"] for event in first] == [0, 1, 2]
    assert [event["sse_event"] for event in first] == ["progress"] * 3
    assert first[0]["sse_id"] == first[0]["id"]
    assert (first[0]["kind"], first[0]["part"], first[0]["token"]) == ("progress", "0", 1)
    last = str(first[-1]["sse_id"])
    for how in ({"headers": {"Last-Event-ID": last}}, {"params": {"after": last}}):
        with follow(open_server, run, **how) as answer:
            stream = events(answer)
            assert [event["done"] for event in take(stream, 2)] == [3, 4]
    log.append(run, "progress", {"task": "a", "done": 5, "total": 9}, part="0", token=1)
    with connect(f"{open_server.url.replace('http', 'ws')}/lmms/events/runs/{run}?after={last}") as websocket:
        got = [json.loads(websocket.recv(timeout=20)) for _ in range(3)]
    assert [event["done"] for event in got] == [3, 4, 5]


def test_lines_arrive_as_they_are_written(open_server: MlflowProcess, valkey: str) -> None:
    _, run = open_server.new_run("live")
    log, delays = EventLog(valkey), []
    log.append(run, "state", {"state": "queued"})
    with follow(open_server, run) as answer:
        stream = events(answer)
        next(stream)
        for number in range(20):
            written = time.monotonic()
            log.append(run, "progress", {"done": number}, part="0", token=1)
            assert next(stream)["done"] == number
            delays.append(time.monotonic() - written)
    assert statistics.median(delays) < 0.5


@pytest.mark.parametrize(
    ("path", "status"),
    [("runs/no-such-run", 404), ("runs/", 404), ("elsewhere", 404), ("runs/../feed", 404), ("feed?after=now", 400)],
)
def test_what_is_no_stream_is_refused(open_server: MlflowProcess, path: str, status: int) -> None:
    request = requests.Request("GET", f"{open_server.url}/lmms/events/").prepare()
    request.url = f"{open_server.url}/lmms/events/{path}"
    with requests.Session() as session:
        answer = session.send(request, timeout=30)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_run_without_stream_says_so(open_server: MlflowProcess) -> None:
    _, run = open_server.new_run("long ago")
    with follow(open_server, run) as answer:
        assert [event["sse_event"] for event in events(answer)] == ["expired"], "and the stream ends"


def test_events_are_only_read(open_server: MlflowProcess) -> None:
    assert requests.post(f"{open_server.url}/lmms/events/feed", timeout=30).status_code == 400


def test_sixty_viewers_leave_mlflow_alone(open_server: MlflowProcess, valkey: str) -> None:
    experiment, run = open_server.new_run("watched")
    log = EventLog(valkey)
    log.append(run, "state", {"state": "running"})
    with ExitStack() as stack:
        viewers = [events(stack.enter_context(follow(open_server, run))) for _ in range(60)]
        assert all(next(viewer)["state"] == "running" for viewer in viewers)
        search = f"{open_server.url}/api/2.0/mlflow/runs/search"
        for _ in range(10):
            log.append(run, "progress", {"done": 1}, part="0", token=1)
            answer = requests.post(search, json={"experiment_ids": [experiment]}, timeout=5)
            assert answer.status_code == 200
            assert len(answer.json()["runs"]) == 1
        assert all([event["done"] for event in take(viewer, 10)] == [1] * 10 for viewer in viewers)
    # All of them have left: the server notices, and the readers' connections are not kept.
    deadline = time.monotonic() + 20
    while open_connections(open_server) > 5:
        assert time.monotonic() < deadline, f"{open_connections(open_server)} connections are still open"
        time.sleep(0.05)


def open_connections(server: MlflowProcess) -> int:
    """Established connections that the server still holds, as the kernel counts them."""
    port = f":{server.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] in ("01", "08") for row in rows)


def test_a_viewer_that_stops_reading_holds_nobody_up(open_server: MlflowProcess, valkey: str) -> None:
    _, run = open_server.new_run("ignored")
    log = EventLog(valkey)
    log.append(run, "state", {"state": "running"})
    address = urlsplit(open_server.url)
    with socket.socket() as stuck, follow(open_server, run) as answer:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((address.hostname, address.port))
        stuck.sendall(f"GET /lmms/events/runs/{run} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        stream = events(answer)
        next(stream)
        lines = [{"message": "x" * 50_000}]

        def write() -> None:
            for number in range(300):
                log.append(run, "log", {"lines": lines, "n": number})

        writing = threading.Thread(target=write)
        writing.start()
        assert [event["n"] for event in take(stream, 300)] == list(range(300))
        writing.join()
        assert requests.get(f"{open_server.url}/health", timeout=5).ok


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A queue server that the test may mistreat."""
    server = EmbeddedRedis(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


def test_outages_are_told_and_the_server_stops_with_viewers_connected(
    tmp_path: Path, own_valkey: EmbeddedRedis
) -> None:
    server = MlflowProcess(tmp_path / "server", own_valkey.url).start()
    try:
        experiment, run = server.new_run("outage")
        log = EventLog(own_valkey.url)
        log.append(run, "state", {"state": "running"})
        with redis.Redis.from_url(own_valkey.url) as connection:
            pid = int(connection.info("server")["process_id"])
        with follow(server, run) as answer, ThreadPoolExecutor() as pool:
            stream = events(answer)
            assert next(stream)["state"] == "running"
            os.kill(pid, signal.SIGSTOP)
            try:
                assert next(stream)["sse_event"] == "unavailable"
                search = {"experiment_ids": [experiment]}
                found = requests.post(f"{server.url}/api/2.0/mlflow/runs/search", json=search, timeout=10)
                assert found.status_code == 200, "MLflow does not need the queue server"
            finally:
                os.kill(pid, signal.SIGCONT)
            assert next(stream)["sse_event"] == "available"
            log.append(run, "progress", {"done": 1})
            assert next(stream)["done"] == 1
            os.kill(pid, signal.SIGKILL)
            assert next(stream)["sse_event"] == "unavailable"
            own_valkey.stop()
            own_valkey.start()
            assert next(stream)["sse_event"] == "available"

            rest = pool.submit(list, stream)
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 10, "the server must not wait for its viewers"
            assert rest.result(20) == []
        assert "Traceback" not in server.log()
    finally:
        server.stop()
