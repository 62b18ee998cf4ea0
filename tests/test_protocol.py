"""Server and box agree on the worker API's version, or are told which side to update and how."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from evaluation_world import Seeded
from flask.testing import FlaskClient

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.protocol import OLDEST, agreed, box_warning, refusal
from mlflow_lmms.work_order import PROTOCOL
from worker.server_check import check_server


def test_both_speak_the_lower_of_their_versions() -> None:
    assert agreed(PROTOCOL, "2.0", "2.0") == PROTOCOL
    assert agreed(OLDEST, "1.0", "2.0") == OLDEST
    assert agreed(PROTOCOL + 1, "3.0", "2.0") == PROTOCOL


@pytest.mark.parametrize(
    ("server", "side", "command"),
    [(OLDEST - 1, "update the server", "mlflow-lmms==2.0"), (PROTOCOL + 2, "update the box", "mlflow-lmms==9.0")],
)
def test_without_a_common_version_the_side_and_the_command_are_named(server: int, side: str, command: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        agreed(server, "9.0", "2.0")
    assert side in refused.value.message and f"pip install '{command}'" in refused.value.message


def test_the_server_takes_its_own_version_and_the_one_before() -> None:
    assert refusal(PROTOCOL, "2.0") is None and refusal(OLDEST, "2.0") is None
    for other in (OLDEST - 1, PROTOCOL + 1):
        assert "pip install 'mlflow-lmms==2.0'" in str(refusal(other, "2.0"))


def test_the_fleet_is_warned_of_boxes_that_do_not_keep_up() -> None:
    assert box_warning(PROTOCOL, "2.0", "2.0") is None
    assert "gets no work" in str(box_warning(OLDEST - 1, "0.1", "2.0"))
    assert "next release refuses" in str(box_warning(OLDEST, "1.0", "2.0"))
    assert "update the server" in str(box_warning(PROTOCOL + 2, "9.0", "2.0"))
    assert box_warning(PROTOCOL, "2.1", "2.0") == "has version 2.1, the server 2.0"


def test_a_claim_of_an_older_box_is_refused_with_the_command(seeded: Seeded, visitor: FlaskClient) -> None:
    claim = {"run_id": seeded.queued, "part": "0", "token": 5_000, "box": "b", "slot": "s", "gpus": []}
    answer = visitor.post("/lmms/api/v1/worker/claim", json={**claim, "protocol": OLDEST - 1})
    assert answer.status_code == 400
    assert "pip install 'mlflow-lmms==" in answer.get_json()["error"]["message"]


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server that says of itself what the test puts into `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(getattr(self.server, "answer", {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    found = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_box_asks_the_server_at_its_start(server: HTTPServer) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    vars(server)["answer"] = {"protocol": OLDEST, "version": "0.0.1"}
    assert check_server(address) == OLDEST
    vars(server)["answer"] = {"protocol": PROTOCOL + 2, "version": "9.0"}
    with pytest.raises(ConfigurationError, match=r"mlflow-lmms==9\.0"):
        check_server(address)


def test_a_server_that_is_away_keeps_no_box_from_starting() -> None:
    assert check_server("http://127.0.0.1:9") is None
