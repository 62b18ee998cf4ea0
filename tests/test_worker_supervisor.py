"""The command ``mlflow-lmms worker``: slots started, restarted, drained, whatever lies in the current folder."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import FakeDriver
from worker_box import RUN, Box, wait_for, words_of

from mlflow_lmms.evaluation_queue import job_id
from mlflow_lmms.queue_keys import BOX_STATE_KEY, KNOWN_BOXES_KEY, known_from_json


@pytest.fixture
def box(supervised_box: Box) -> Box:
    """A worker command of this test's own."""
    return supervised_box


def test_a_box_announces_itself_takes_work_and_gives_it_back(box: Box) -> None:
    process = box.start("--cpu-slots", "2", "--environment", f"other={sys.executable}", "--label", "quiet")
    told = box.report()
    assert (told.cpu_slots, told.gpu_slots, told.gpus, told.state, told.until) == (2, 0, (), "open", None)
    assert (set(told.environments), set(told.labels), told.shares_gpus) == ({"other"}, {"quiet"}, False)
    assert told.cache != ""
    wait_for(lambda: len(box.slots()) == 2)
    assert {Path(slot.cwd()) for slot in box.slots()} == {box.log.parent / "data" / "worker"}
    assert list((box.log.parent / "data" / "worker").iterdir()) == []
    box.submit()
    wait_for(box.claimed)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: box.report().state == "draining")
    wait_for(lambda: len(box.slots()) == 1)
    assert box.claimed(), "the first request to stop waits for what runs"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not box.announced()
    assert "b" in box.redis.hgetall(KNOWN_BOXES_KEY), "it will be back"
    assert box.queue.leases() == {}
    assert box.queue.queued() == [job_id(RUN, "p0")]


@pytest.mark.parametrize("options", [["--no-drain"], ["--drain-for", "1"]])
def test_without_draining_or_after_its_time_what_runs_is_given_back(box: Box, options: list[str]) -> None:
    process = box.start(*options)
    box.submit()
    wait_for(box.claimed)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert box.queue.queued() == [job_id(RUN, "p0")]


def test_a_killed_slot_is_buried_and_started_again(box: Box) -> None:
    box.start()
    box.submit()
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


def test_a_killed_supervisor_leaves_nothing_that_goes_on_for_long(box: Box, driver: FakeDriver) -> None:
    process = box.start("--gpus", "0", environ=driver.environ)
    wait_for(lambda: box.log.read_text().count("Listening on") == 2)
    wait_for(lambda: {"worker.slot", "worker.gpu_stream", "worker.fetcher"} <= box.programs())
    tree = process.children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(tree, timeout=20)[1] == []


def test_an_idle_box_ends_when_told_so_and_not_before(box: Box) -> None:
    process = box.start("--exit-when-idle", "--cpu-slots", "2")
    box.submit()
    wait_for(box.claimed)
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(8)
    assert len(box.slots()) == 2, "a slot without work waits for more as long as the box has some"
    box.queue.ask_cancel(RUN)
    assert process.wait(60) == 0
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


def test_an_admin_drains_a_box_and_opens_it_again(box: Box) -> None:
    box.start()
    job = box.submit()
    wait_for(box.claimed)
    box.redis.hset(BOX_STATE_KEY, "b", "drained")
    wait_for(lambda: box.queue.queued() == [job] and not box.queue.leases())
    wait_for(lambda: "this box is drained" in box.log.read_text())
    box.redis.hdel(BOX_STATE_KEY, "b")
    wait_for(box.claimed)
    wait_for(lambda: "open again" in box.log.read_text())


def test_a_box_whose_time_ends_takes_what_fits_and_gives_it_back(box: Box) -> None:
    process = box.start("--until", "60s", "--cpu-slots", "2")
    until = box.report().until
    assert until is not None
    assert 10 < until - time.time() < 54.5, "a tenth of the time is kept for giving back"
    long = box.submit("ab" * 16, estimated_s=3600.0)
    short = box.submit(estimated_s=1.0)
    wait_for(box.claimed, 50)
    assert box.lease(long) is None
    assert process.wait(60) == 0
    assert sorted(box.queue.queued()) == sorted([short, long])
    assert "the time of this box is over" in box.log.read_text()
    known: Any = box.redis.hget(KNOWN_BOXES_KEY, "b")
    assert known_from_json(known)[0].until is None, "it may be back tomorrow: jobs can wait for it"


def test_the_address_of_the_queue_is_in_no_command_line(box: Box, empty_valkey: str) -> None:
    box.start()
    wait_for(lambda: len(box.slots()) == 1)
    assert box.process is not None
    lines = [words_of(child) for child in box.process.children(recursive=True)]
    assert empty_valkey not in json.dumps(lines)
