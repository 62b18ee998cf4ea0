"""A box's fetcher as a process of its own: orders from a real queue server, downloads from a Hub of our own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from fake_hub import FakeHub, Repository, serve

from mlflow_lmms.fetch_items import FetchItem
from mlflow_lmms.fetch_orders import Fetches, FetchOrder, FetchOrders
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.queue_keys import fetched_key
from mlflow_lmms.settings import Settings
from mlflow_lmms.work_order import ResolvedModel
from worker.fetcher_process import FetcherProcess

DEADLINE_S = 60
MODEL = FetchItem(kind="model", name="lab/small")
OTHER = FetchItem(kind="model", name="lab/other")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    small = Repository({"config.json": b"{}", "model.safetensors": os.urandom(400_000)})
    with serve({"lab/small": small, "lab/other": Repository({"config.json": b"{ }"})}) as hub:
        yield hub


class Box:
    """One box with its fetcher, and the server that orders."""

    def __init__(
        self, folder: Path, redis_url: str, name: str = "a", cache: str = "cache-1", **settings: Any
    ) -> None:
        self.name, self.cache = name, cache
        self.settings = Settings(data_folder=folder / name, redis_url=redis_url, box=name, **settings)
        (self.settings.data_folder / "worker").mkdir(parents=True)
        self.fetcher = FetcherProcess(self.settings, cache)
        self.server = FetchOrders(redis_url)
        self.events = EventLog(redis_url)

    def order(self, *items: FetchItem, job: str = "run1-0") -> None:
        at = self.look().now
        self.server.write(self.name, {item.key: FetchOrder(item=item, jobs=(job,), at=at) for item in items})

    def look(self) -> Fetches:
        return self.server.read({self.name: self.cache})

    def state(self, item: FetchItem) -> Any:
        return self.look().states[self.name].get(item.key)

    def has(self, item: FetchItem) -> bool:
        fetched = self.look().fetched
        return item.key in fetched.get(item.place(self.name, self.cache), {})

    def wait(self, found: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (value := found()):
            assert time.monotonic() < deadline, f"waited for {what}; {self.look()}"
            self.fetcher.tend()
            time.sleep(0.05)
        return value

    def failed(self, item: FetchItem) -> str:
        def message() -> str | None:
            state = self.state(item)
            return state.message if state is not None and state.state == "failed" else None

        return str(self.wait(message, f"{item.name} to fail"))


@pytest.fixture
def box(tmp_path: Path, empty_valkey: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    for name, value in hub.environ(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    box = Box(tmp_path, empty_valkey)
    yield box
    box.fetcher.stop()


def below(pid: int | None) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_an_order_is_carried_out_and_told_to_the_runs_that_wait(box: Box, hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    box.order(MODEL)
    state = box.wait(lambda: (told := box.state(MODEL)) and told.done and told, "progress")
    assert state.state == "fetching" and 0 < state.done < state.total == 400_002
    assert "a" in box.look().alive
    assert psutil.Process(box.fetcher.pid).nice() == min(19, os.nice(0) + 10)
    hub.stuck = set()
    hub.go_on.set()
    box.wait(lambda: box.has(MODEL), "the model")
    assert box.state(MODEL) is None
    events = box.events.read("run1")
    assert [event.data["phase"] for event in events if event.kind == "phase"] == ["fetch"]
    progress = [event for event in events if event.kind == "progress"]
    assert progress and progress[-1].part == "0" and progress[-1].data["total"] == 400_002
    box.server.write("a", {})
    box.order(MODEL)
    box.wait(lambda: not box.look().orders["a"] or box.has(MODEL), "nothing more")
    assert hub.downloads["model.safetensors"] == 1


def test_a_withdrawn_order_stops_its_download_and_the_next_has_its_turn(box: Box, hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    box.order(MODEL)
    box.wait(hub.reached.is_set, "the download to begin")
    running = below(box.fetcher.pid)
    assert running
    box.order(OTHER, job="run2-0")
    box.wait(lambda: box.has(OTHER), "the other model")
    assert not box.has(MODEL) and box.state(MODEL) is None
    assert not [process for process in running if process.is_running()], "a download that nobody wants goes on"
    assert hub.downloads["model.safetensors"] == 0


def test_a_fetcher_that_was_killed_is_started_again_and_goes_on(box: Box, hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    box.order(MODEL)
    box.wait(hub.reached.is_set, "the download to begin")
    box.wait(lambda: (told := box.state(MODEL)) and told.done, "the other file to be there")
    killed, running = box.fetcher.pid, below(box.fetcher.pid)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    hub.stuck = set()
    hub.go_on.set()
    box.wait(lambda: not any(process.is_running() for process in running), "its processes to be gone")
    box.wait(lambda: box.fetcher.pid not in (None, killed) and box.has(MODEL), "the new fetcher to fetch it")
    assert hub.downloads["config.json"] == 1, "what was there was fetched again"


def test_a_download_that_crashes_again_and_again_fails_with_its_last_words(box: Box, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no such module' >&2\nexit 7\n")
    python.chmod(0o755)
    box.fetcher.stop()
    box = Box(tmp_path / "second", box.settings.redis_address, environments={"own": str(python)})
    try:
        item = FetchItem(kind="model", name="lab/small", environment="own")
        box.order(item)
        assert box.failed(item) == "the fetch ended with code 7: no such module"
    finally:
        box.fetcher.stop()


def test_what_a_box_cannot_do_is_told(box: Box) -> None:
    wrong = FetchItem(kind="model", name="lab/small", environment="nowhere")
    secret = FetchItem(kind="model", name="lab/small", token=True)
    missing = FetchItem(kind="model", name="lab/nothing")
    box.order(wrong, secret, missing)
    assert "environment 'nowhere'" in box.failed(wrong)
    assert "has no secret HF_TOKEN" in box.failed(secret)
    assert "the Hub has no lab/nothing" in box.failed(missing)
    (line,) = [line for event in box.events.read("run1") if event.kind == "log" for line in event.data["lines"]][-1:]
    assert line["level"] == "WARNING" and "could not be fetched beforehand on a" in line["message"]
    box.server.write("a", {})
    box.wait(lambda: not box.look().states["a"], "failures of withdrawn orders to be forgotten")


def test_a_box_that_is_kept_offline_asks_nobody(box: Box, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    box.order(MODEL)
    box.wait(lambda: box.has(MODEL), "the order to be settled")
    assert hub.requests == []


def test_the_token_reaches_the_hub_and_no_command_line(
    box: Box, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["lab/small"].refusal, hub.models["lab/small"].token = (403, "GatedRepo"), "hf_ours"
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    hub.stuck = {"model.safetensors"}
    item = FetchItem(kind="model", name="lab/small", token=True)
    box.order(item)
    box.wait(hub.reached.is_set, "the download to begin")
    assert not any("hf_ours" in " ".join(process.cmdline()) for process in below(box.fetcher.pid))
    hub.stuck = set()
    hub.go_on.set()
    box.wait(lambda: box.has(item), "the gated model")
    plain = FetchItem(kind="model", name="lab/small", revision="main")
    box.order(plain)  # a run that does not name the secret does not get it
    assert "is gated" in box.failed(plain)


def test_a_registered_model_is_fetched_once_for_its_box(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "registry"
    (source / "sub").mkdir(parents=True)
    (source / "weights.json").write_text("[1]")
    (source / "sub" / "more.json").write_text("[2]")
    model = ResolvedModel(
        label="m v3", name="m", version="3", adapter="a", model_args={}, gpus=0, artifact_uri=f"file://{source}",
        artifact_argument="path",
    )  # fmt: skip
    item = FetchItem(kind="artifact", name="m v3", artifact=model)
    box.order(item)
    box.wait(lambda: box.has(item), "the artifact")
    (folder,) = (box.settings.data_folder / "models").iterdir()
    assert json.loads((folder / "sub" / "more.json").read_text()) == [2]
    with redis.Redis.from_url(box.settings.redis_address) as connection:
        assert connection.hexists(fetched_key("box:a"), item.key) and not connection.exists(fetched_key("cache-1"))


def test_no_process_is_left_when_the_fetcher_is_stopped(box: Box, hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    box.order(MODEL)
    box.wait(hub.reached.is_set, "the download to begin")
    running = [psutil.Process(box.fetcher.pid), *below(box.fetcher.pid)]
    assert len(running) > 1
    box.fetcher.stop()
    _, left = psutil.wait_procs(running, timeout=10)
    assert not left
    assert "a" not in box.look().alive, "a box whose fetcher is gone would be waited for"
