"""Rates of requests to services: which service an adapter asks, and one window for the whole fleet."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from runner_process import Outcome, Runner

from mlflow_lmms.errors import ConfigurationError
from worker.endpoint_rate import EndpointRate, Grants, endpoint_of

PER_SECOND = 8
DOCUMENTS = 20


@pytest.mark.parametrize(
    ("adapter", "arguments", "environ", "endpoint"),
    [
        ("openai", {}, {}, "api.openai.com"),
        ("openai", {"base_url": "http%3A//127.0.0.1:8000/v1"}, {}, "127.0.0.1:8000"),
        ("openai_compatible", {}, {"OPENAI_API_BASE": "https://llm.example/v1"}, "llm.example"),
        ("async_openai", {"base_url": "https://a.example"}, {"OPENAI_API_BASE": "https://b.example"}, "a.example"),
        ("openai", {"azure_openai": "True"}, {"AZURE_OPENAI_API_BASE": "https://me.azure.com/"}, "me.azure.com"),
        ("litellm", {"model_version": "anthropic/claude"}, {}, "api.anthropic.com"),
        ("litellm", {"model_version": "gpt-4o"}, {}, "api.openai.com"),
        ("litellm", {"model_version": "unheard-of/model"}, {}, None),
        ("gemini", {}, {}, "generativelanguage.googleapis.com"),
        ("claude", {}, {"API_TYPE": "azure"}, "api.anthropic.com"),
        ("gpt4v", {}, {"OPENAI_API_URL": "https://c.example/v1/chat/completions"}, "c.example"),
        ("gpt4v", {}, {"API_TYPE": "azure", "AZURE_ENDPOINT": "https://d.example/x"}, "d.example"),
        ("qwen2_5_vl", {"pretrained": "p"}, {}, None),
        ("vllm", {}, {"OPENAI_API_BASE": "https://llm.example"}, None),
    ],
)
def test_the_endpoint_is_where_the_adapter_sends_requests(
    adapter: str, arguments: dict[str, str], environ: dict[str, str], endpoint: str | None
) -> None:
    assert endpoint_of(adapter, arguments, environ) == endpoint


def test_two_boxes_share_one_window(empty_valkey: str) -> None:
    here, there = (EndpointRate(empty_valkey, "a.example", "3/hour") for _ in range(2))
    other = EndpointRate(empty_valkey, "b.example", "3/hour")
    assert [here.take(), there.take(), here.take(), there.take(), here.take()] == [True, True, True, False, False]
    assert other.take()


def test_what_is_no_rate_is_refused(empty_valkey: str) -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_LMMS_ENDPOINT_RATES"):
        EndpointRate(empty_valkey, "a.example", "often")


def test_nothing_is_granted_while_redis_is_away() -> None:
    assert not EndpointRate("redis://127.0.0.1:1", "a.example", "3/hour").take()


def test_a_minute_allows(empty_valkey: str) -> None:
    rates = [EndpointRate(empty_valkey, "a.example", text).per_minute for text in ("90/minute", "2/second", "5/hour")]
    assert rates == [90, 120, 1]


class _Service(BaseHTTPRequestHandler):
    """Answers like OpenAI's chat completions, and notes when it was asked."""

    times: ClassVar[list[float]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.times.append(time.monotonic())
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "12"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        body = json.dumps({**answer, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    """Host and port of a service."""
    _Service.times.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Slot:
    """A run of the runner with the worker's end of the pipe of grants."""

    def __init__(self, runner: Runner, folder: Path, rate: EndpointRate, endpoint: str) -> None:
        folder.mkdir()
        self._reading, writing = os.pipe()
        self._grants = Grants(rate, writing)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.outcome: Outcome | None = None
        self._request = {
            "model": "openai",
            "model_args": f"model_version=m,base_url=http://{endpoint}/v1,num_concurrent=6",
            "rate": {"endpoint": endpoint, "per_minute": rate.per_minute},
            "limit": DOCUMENTS,
        }
        self._runner, self._folder = runner, folder
        self.threads = [threading.Thread(target=self._run), threading.Thread(target=self._grant)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        environment = {"OPENAI_API_KEY": "sk-x", "LMMS_GRANT_FD": str(self._reading), "NO_PROXY": "127.0.0.1"}
        self.outcome = self._runner.run(
            self._folder, environment, self._hear, inherited=(self._reading,), **self._request
        )
        self._ended.set()

    def _hear(self, event: dict[str, Any], _process: Any) -> None:
        if event["event"] == "ask":
            with self._lock:
                self._grants.ask(event["requests"])

    def _grant(self) -> None:
        while not self._ended.wait(0.02):
            with self._lock:
                self._grants.look()
        self._grants.close()
        with suppress(OSError):
            os.close(self._reading)


@pytest.mark.lmms_eval
def test_the_rate_holds_for_two_slots_together(
    empty_valkey: str, service: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runner = Runner(tmp_path_factory.mktemp("hub"))
    rates = [EndpointRate(empty_valkey, service, f"{PER_SECOND}/second") for _ in range(2)]
    slots = [_Slot(runner, tmp_path / str(number), rate, service) for number, rate in enumerate(rates)]
    for thread in (thread for slot in slots for thread in slot.threads):
        thread.join()
    for slot in slots:
        assert slot.outcome is not None and slot.outcome.status == 0, slot.outcome
        assert sum(event["requests"] for event in slot.outcome.of("ask")) == DOCUMENTS
    times = sorted(_Service.times)
    assert len(times) == 2 * DOCUMENTS
    # From leave to arrival takes a moment, so a somewhat shorter window is looked at.
    assert _most_within(times, 0.7) <= PER_SECOND


def _most_within(times: Sequence[float], seconds: float) -> int:
    return max(sum(start <= at < start + seconds for at in times) for start in times)
