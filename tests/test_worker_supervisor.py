"""The command ``mlflow-lmms worker``: slots started, restarted, drained, whatever lies in the current folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fake_nvml import FakeDriver

from mlflow_lmms.evaluation_queue import EvaluationQueue, job_id

COMMAND = Path(sys.executable).with_name("mlflow-lmms")
RUN = "ef56" * 8


def wait_for(true: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended
        return []


class Box:
    """A running worker command. Its server is away, so a part that it claims stays claimed."""

    def __init__(self, url: str, folder: Path) -> None:
        self.queue = EvaluationQueue(url)
        self._url = url
        self._folder = folder
        self.process: psutil.Popen | None = None
        self.log = folder / "worker.log"

    def start(self, *options: str, current_folder: Path | None = None, **environ: str) -> psutil.Popen:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "CUDA_"))}
        outside |= {"MLFLOW_LMMS_BOX": "b", "MLFLOW_LMMS_REDIS_URL": self._url, "MLFLOW_LMMS_LEASE_TTL_S": "4"}
        command = [str(COMMAND), "worker", "--data-folder", str(self._folder / "data")]
        command += ["--server-url", "http://127.0.0.1:9"]
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                [*command, *options],
                env={**outside, **environ},
                cwd=current_folder or self._folder,
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        return self.process

    def slots(self) -> list[psutil.Process]:
        assert self.process is not None
        return [child for child in self.process.children() if "worker.slot" in _words(child)]

    def announced(self) -> bool:
        return [box.name for box in self.queue.boxes()] == ["b"]

    def claimed(self) -> bool:
        return job_id(RUN, "p0") in self.queue.leases()

    def close(self) -> None:
        if self.process is not None and self.process.is_running():
            tree = self.process.children(recursive=True)
            for process in [self.process, *tree]:
                if process.is_running():
                    process.kill()
            self.process.wait()


@pytest.fixture
def box(empty_valkey: str, tmp_path: Path) -> Iterator[Box]:
    box = Box(empty_valkey, tmp_path)
    yield box
    box.close()


def test_a_box_announces_itself_takes_work_and_gives_it_back(box: Box) -> None:
    process = box.start("--cpu-slots", "2", "--environment", f"other={sys.executable}")
    wait_for(box.announced)
    (told,) = box.queue.boxes()
    assert (told.cpu_slots, told.gpu_slots, told.gpus, told.environments) == (2, 0, (), ("other",))
    wait_for(lambda: len(box.slots()) == 2)
    assert {Path(slot.cwd()) for slot in box.slots()} == {box.log.parent / "data" / "worker"}
    assert list((box.log.parent / "data" / "worker").iterdir()) == []
    box.queue.enqueue(RUN, "p0", "normal", 0)
    wait_for(box.claimed)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: not box.announced())
    wait_for(lambda: len(box.slots()) == 1)
    assert box.claimed(), "the first request to stop waits for what runs"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert box.queue.leases() == {}
    assert box.queue.queued() == [job_id(RUN, "p0")]


def test_without_draining_the_first_request_gives_back(box: Box) -> None:
    process = box.start("--no-drain")
    box.queue.enqueue(RUN, "p0", "normal", 0)
    wait_for(box.claimed)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert box.queue.queued() == [job_id(RUN, "p0")]


def test_a_killed_slot_is_buried_and_started_again(box: Box) -> None:
    box.start()
    box.queue.enqueue(RUN, "p0", "normal", 0)
    wait_for(box.claimed)
    (before,) = box.queue.leases().values()
    (slot,) = box.slots()
    horses = slot.children()
    slot.kill()
    wait_for(lambda: box.queue.queued() == [job_id(RUN, "p0")] and not box.queue.leases(), 3)
    wait_for(lambda: any(lease.slot != before.slot for lease in box.queue.leases().values()))
    assert not any(horse.is_running() and horse.status() != psutil.STATUS_ZOMBIE for horse in horses)
    (after,) = box.queue.leases().values()
    assert after.token > before.token


def test_a_killed_supervisor_leaves_slots_that_end_after_their_work(box: Box) -> None:
    process = box.start()
    wait_for(lambda: "Listening on" in box.log.read_text())
    slots = box.slots()
    process.kill()
    process.wait()
    assert psutil.wait_procs(slots, timeout=15)[1] == []


def test_an_idle_box_ends_when_told_so(box: Box) -> None:
    assert box.start("--exit-when-idle", "--cpu-slots", "1").wait(60) == 0
    assert not box.announced()


def test_files_in_the_current_folder_break_nothing(box: Box, tmp_path: Path) -> None:
    here = tmp_path / "mine"
    here.mkdir()
    for name in ("worker", "redis", "rq", "click", "logging", "mlflow_lmms", "plugin_ui"):
        (here / f"{name}.py").write_text("raise RuntimeError('a file of the user was imported')")
    box.start("--cpu-slots", "1", current_folder=here)
    wait_for(lambda: "Listening on" in box.log.read_text())
    assert "a file of the user" not in box.log.read_text()
    assert box.announced()


def test_every_gpu_gets_a_slot_and_two_parts_never_share_one(box: Box, tmp_path: Path) -> None:
    box.start("--cpu-slots", "0", **FakeDriver(tmp_path / "nvml").environ)
    wait_for(box.announced)
    (told,) = box.queue.boxes()
    assert (told.cpu_slots, told.gpu_slots, [gpu["name"] for gpu in told.gpus]) == (0, 2, ["Made-up 80GB"] * 2)
    for number in range(3):
        box.queue.enqueue(f"{RUN[:-1]}{number}", "p0", "normal", 1)
    wait_for(lambda: len(box.queue.leases()) == 2)
    leased = [gpu for lease in box.queue.leases().values() for gpu in lease.gpus]
    assert sorted(leased) == sorted(gpu["uuid"] for gpu in told.gpus)
    assert len(box.queue.queued()) == 1


def test_gpus_that_are_not_there_and_a_missing_queue_are_told(box: Box, tmp_path: Path) -> None:
    assert box.start("--gpus", "0").wait(30) == 2
    assert "--gpus 0 is not on this box, which has no GPU at all" in box.log.read_text()
    gone = f"unix://{tmp_path}/nothing.sock"
    assert box.start("--redis-url", gone).wait(30) == 3
    assert "does not answer" in box.log.read_text()
    assert box.start("--cpu-slots", "0", "--gpus", "none").wait(30) == 2
    assert "no slot" in box.log.read_text()
    assert box.start("--environment", "x=/nowhere/python").wait(30) == 2
    assert "NAME=PYTHON" in box.log.read_text()


def test_the_address_of_the_queue_is_in_no_command_line(box: Box, empty_valkey: str) -> None:
    box.start()
    wait_for(lambda: len(box.slots()) == 1)
    assert box.process is not None
    lines = [_words(child) for child in box.process.children(recursive=True)]
    assert empty_valkey not in json.dumps(lines)


def test_rq_s_own_command_runs_a_slot_too(box: Box, empty_valkey: str, tmp_path: Path) -> None:
    box.queue.enqueue(RUN, "p0", "normal", 0)
    outside = {**os.environ, "MLFLOW_LMMS_BOX": "b", "MLFLOW_LMMS_REDIS_URL": empty_valkey}
    outside |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_LMMS_DATA_FOLDER": str(tmp_path / "data")}
    command = [str(COMMAND.with_name("rq")), "worker", "--url", empty_valkey]
    command += ["-w", "worker.GpuWorker", "-j", "worker.SafeJob", "--serializer", "json"]
    with box.log.open("ab") as log:
        box.process = psutil.Popen(command, env=outside, cwd=tmp_path, stdout=log, stderr=log)
    wait_for(box.claimed)
    assert box.announced()
    for _ in range(2):
        box.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert box.process.wait(20) == 0
    assert box.queue.queued() == [job_id(RUN, "p0")]
