"""A running worker command for tests: what it announces, its slots, what it has claimed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from fake_nvml import FakeDriver
from waiting_job import waiting

from mlflow_lmms.evaluation_queue import EvaluationQueue, Lease, job_id
from mlflow_lmms.queue_keys import BoxReport, GpuReport, box_key

COMMAND = Path(sys.executable).with_name("mlflow-lmms")
#: Its own for each process of tests: processes are found, and killed, by the run that they work on.
RUN = f"{os.getpid():08x}{'ef56' * 6}"


def wait_for(true: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def words_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended
        return []


class Box:
    """A running worker command. Its server is away, so a part that it claims stays claimed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.queue = EvaluationQueue(url)
        self.redis: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        self._url = url
        self._folder = folder
        self.name = "b"
        self.process: psutil.Popen | None = None
        self.log = folder / "worker.log"

    def start(
        self, *options: str, current_folder: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> psutil.Popen:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "CUDA_"))}
        outside |= {"MLFLOW_LMMS_BOX": "b", "MLFLOW_LMMS_REDIS_URL": self._url, "MLFLOW_LMMS_LEASE_TTL_S": "6"}
        outside |= {"HF_HOME": str(self._folder / "huggingface")}
        command = [str(COMMAND), "worker", "--data-folder", str(self._folder / "data")]
        command += ["--server-url", "http://127.0.0.1:9"]
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                [*command, *options],
                env={**outside, **(environ or {})},
                cwd=current_folder or self._folder,
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        return self.process

    def slots(self) -> list[psutil.Process]:
        assert self.process is not None
        return [child for child in self.process.children() if "worker.slot" in words_of(child)]

    def programs(self) -> set[str]:
        """The modules that run below it."""
        assert self.process is not None
        return {word for child in self.process.children(recursive=True) for word in words_of(child)}

    def told(self) -> BoxReport | None:
        """What the box announces now."""
        fields: Any = self.redis.hgetall(box_key(self.name))
        return BoxReport.from_fields(fields) if fields else None

    def announced(self) -> bool:
        return self.told() is not None

    def report(self) -> BoxReport:
        wait_for(self.announced)
        told = self.told()
        assert told is not None
        return told

    def gpu(self, uuid: str) -> GpuReport:
        return next(gpu for gpu in self.report().gpus if gpu.uuid == uuid)

    def submit(self, run: str = RUN, gpus: int = 0, **need: object) -> str:
        self.queue.enqueue(waiting(run, "p0", "normal", gpus, **need))
        return job_id(run, "p0")

    def lease(self, job: str = job_id(RUN, "p0")) -> Lease | None:
        return self.queue.leases().get(job)

    def claimed(self) -> bool:
        return self.lease() is not None

    def close(self) -> None:
        if self.process is not None and self.process.is_running():
            tree = self.process.children(recursive=True)
            for process in [self.process, *tree]:
                if process.is_running():
                    process.kill()
            self.process.wait()
        self.redis.close()


@pytest.fixture
def supervised_box(empty_valkey: str, tmp_path: Path) -> Iterator[Box]:
    box = Box(empty_valkey, tmp_path)
    yield box
    box.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(built: FakeDriver) -> FakeDriver:
    built.tell()
    return built
