"""The command ``mlflow-lmms worker`` with a GPU: it fetches for runs that wait, and leaves nothing when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from fake_hub import FakeHub, Repository, serve
from fake_nvml import FakeDriver

from mlflow_lmms.fetch_items import FetchItem
from mlflow_lmms.fetch_orders import FetchOrder, FetchOrders, FetchState
from mlflow_lmms.queue_keys import BoxReport, box_key

COMMAND = Path(sys.executable).with_name("mlflow-lmms")
MODEL = FetchItem(kind="model", name="lab/small")
DEADLINE_S = 90


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve({"lab/small": Repository({"config.json": b"{}", "model.safetensors": os.urandom(400_000)})}) as hub:
        yield hub


def wait_for(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)


class Box:
    """A worker command on one made-up GPU whose server is away, and the queue server that orders."""

    def __init__(self, name: str, url: str, folder: Path, home: Path, hub: FakeHub, driver: FakeDriver) -> None:
        self.name, self._url, self._folder = name, url, folder / name
        self._folder.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "CUDA_", "HF_"))}
        own = {"MLFLOW_LMMS_BOX": name, "MLFLOW_LMMS_REDIS_URL": url, "MLFLOW_LMMS_CPU_SLOTS": "0"}
        self._environ = {**kept, **own, **driver.environ, **hub.environ(home)}
        self.redis: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        self.orders = FetchOrders(url)
        self.log = self._folder / "worker.log"

    def start(self, *options: str) -> None:
        command = [str(COMMAND), "worker", "--data-folder", str(self._folder / "data"), *options]
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                [*command, "--server-url", "http://127.0.0.1:9"], env=self._environ, cwd=self._folder,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: self.name in self.orders.read({self.name: self.cache()}).alive, "the fetcher")

    def cache(self) -> str:
        fields: Any = self.redis.hgetall(box_key(self.name))
        return BoxReport.from_fields(fields).cache if fields else ""

    def order(self, item: FetchItem) -> None:
        at = self.orders.read({self.name: self.cache()}).now
        self.orders.write(self.name, {item.key: FetchOrder(item=item, jobs=("run1-0",), at=at)})

    def has(self, item: FetchItem) -> bool:
        cache = self.cache()
        return item.key in self.orders.read({self.name: cache}).fetched.get(cache, {})

    def fetching(self) -> list[psutil.Process]:
        """The fetcher and all that it has started."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if "worker.fetcher" in words or "worker.runner.fetch" in words:
                found.append(process)
        return found

    def close(self) -> None:
        if self.process.is_running():
            for process in [self.process, *self.process.children(recursive=True)]:
                if process.is_running():
                    process.kill()
            self.process.wait()
        self.redis.close()


@pytest.fixture
def start(empty_valkey: str, tmp_path: Path, hub: FakeHub) -> Iterator[Callable[..., Box]]:
    driver = FakeDriver(tmp_path / "nvml")
    driver.tell()
    boxes = []

    def start(name: str, *options: str) -> Box:
        boxes.append(Box(name, empty_valkey, tmp_path, tmp_path / "home", hub, driver))
        boxes[-1].start(*options)
        return boxes[-1]

    yield start
    for box in boxes:
        box.close()


def test_boxes_on_one_cache_know_it_and_download_once(start: Callable[..., Box], hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    first, second = start("a"), start("b")
    assert first.cache() and first.cache() == second.cache()
    first.order(MODEL)
    wait_for(hub.reached.is_set, "the download to begin")
    second.order(MODEL)

    def states() -> list[FetchState]:
        return list(second.orders.read({"b": second.cache()}).states["b"].values())

    wait_for(lambda: any(state.state == "waiting" for state in states()), "the second to wait for the first")
    hub.stuck = set()
    hub.go_on.set()
    wait_for(lambda: first.has(MODEL) and second.has(MODEL) and not states(), "both to have it")
    assert hub.downloads["model.safetensors"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_box_that_ends_leaves_no_download(start: Callable[..., Box], hub: FakeHub, number: signal.Signals) -> None:
    hub.stuck = {"model.safetensors"}
    box = start("a")
    box.order(MODEL)
    wait_for(hub.reached.is_set, "the download to begin")
    running = box.fetching()
    assert any("worker.runner.fetch" in " ".join(process.cmdline()) for process in running)
    box.process.send_signal(number)
    _, left = psutil.wait_procs([box.process, *running], timeout=30)
    assert not left, [process.cmdline() for process in left]


def test_a_box_that_is_to_end_when_idle_fetches_first(start: Callable[..., Box], hub: FakeHub) -> None:
    hub.stuck = {"model.safetensors"}
    box = start("a", "--exit-when-idle")
    box.order(MODEL)
    wait_for(hub.reached.is_set, "the download to begin")
    with pytest.raises(psutil.TimeoutExpired):
        box.process.wait(8)
    box.orders.write("a", {})
    assert box.process.wait(DEADLINE_S) == 0
