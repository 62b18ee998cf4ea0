"""Kills, cancels and secrets on the running stack: nothing finished is lost, nothing is left over, nothing leaks."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from mlflow import MlflowClient
from running_stack import SECRET, RunningStack, until

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.settings import Settings

pytestmark = pytest.mark.lmms_eval

LONG = "digits_robust"


def _alive(processes: list[psutil.Process]) -> list[int]:
    return [process.pid for process in processes if process.is_running() and process.status() != "zombie"]


def _in_generation(stack: RunningStack, run_id: str) -> list[psutil.Process]:
    """Wait until the model answers and return the runner's processes."""
    for event in stack.client.events(run_id):
        if event["kind"] == "progress" and event["data"]["phase"] == "generate" and event["data"]["done"]:
            break
    tree = [process for runner in stack.runners() for process in (runner, *runner.children(recursive=True))]
    assert tree
    return tree


def test_cancel_ends_the_whole_tree(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=[LONG], limit=800)
    tree = _in_generation(stack, run_id)
    stack.client.cancel(run_id)
    evaluation = stack.wait(run_id, within_s=60)
    assert evaluation["state"] == "cancelled"
    stack.shown(run_id, "KILLED")
    until(lambda: not _alive(tree), within_s=20, what="the runner's processes to end")


def test_deleting_the_run_in_mlflow_stops_it(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=[LONG], limit=800)
    tree = _in_generation(stack, run_id)
    MlflowClient(stack.url).delete_run(run_id)
    until(lambda: not _alive(tree), within_s=60, what="the runner's processes to end")
    assert stack.wait(run_id, within_s=60)["state"] == "cancelled"


def test_killed_runner_is_tried_again_and_asks_only_what_is_missing(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=["digits_vqa", LONG], limit=800)
    stack.wait_for_state(run_id, "finished")
    tree = _in_generation(stack, run_id)
    killed = time.time()
    tree[0].send_signal(signal.SIGKILL)
    until(
        lambda: stack.client.evaluation(run_id)["tasks"][1]["attempt"] == 2,
        within_s=30,
        what="the task to be queued again",
    )
    assert time.time() - killed < 30
    evaluation = stack.wait(run_id)
    assert evaluation["state"] == "finished", evaluation["tasks"]
    assert evaluation["tasks"][0]["attempt"] == 1


def test_killed_worker_loses_nothing(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=["digits_vqa", LONG], limit=800)
    stack.wait_for_state(run_id, "finished")
    tree = _in_generation(stack, run_id)
    for process in stack.processes("worker.slot"):
        process.send_signal(signal.SIGKILL)
    until(lambda: not _alive(tree), within_s=30, what="the orphans to be swept")
    until(
        lambda: stack.client.evaluation(run_id)["tasks"][1]["attempt"] == 2,
        within_s=30,
        what="the lost task to be queued again",
    )
    evaluation = stack.wait(run_id)
    assert evaluation["state"] == "finished", evaluation["tasks"]
    assert evaluation["tasks"][0]["attempt"] == 1


def test_killed_server_loses_nothing(stack: RunningStack) -> None:
    run_id = stack.submit(tasks=["digits_vqa"])
    stack.wait_for_state(run_id, "starting")
    server = psutil.Process(stack.process.pid)
    for process in server.children(recursive=True):
        # The keeper comes first and takes some of its tree along: what it leaves must not stand in the way.
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "--app-name" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)

    def ended() -> dict[str, Any] | None:
        try:
            evaluation = stack.client.evaluation(run_id)
        except LmmsError:  # it is away
            return None
        return evaluation if evaluation["state"] in ("finished", "failed", "cancelled") else None

    evaluation = until(ended, within_s=180, what="the server to be back and the run to end")
    assert evaluation["state"] == "finished", evaluation["tasks"]


def test_a_secret_is_given_to_the_run_and_found_nowhere(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = stack.submit(tasks=["leaking_secret"], secrets=["OPENAI_API_KEY"], limit=5)
    seen_in_command_lines: list[str] = []

    def ended() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            if any(SECRET in word for word in process.info["cmdline"] or []):
                seen_in_command_lines.append(str(process.info["cmdline"]))
        return bool(stack.client.evaluation(run_id)["state"] in ("finished", "failed"))

    until(ended, within_s=120, what="the run to end")
    assert stack.client.evaluation(run_id)["state"] == "finished", stack.client.evaluation(run_id)["tasks"]
    assert not seen_in_command_lines
    assert any("the secret is here" in line["message"] for line in stack.client.log(run_id))
    until(lambda: not (stack.data / "spool" / run_id).exists(), within_s=20, what="the spool to be emptied")
    assert _places_with(stack, SECRET.encode()) == []


def _places_with(stack: RunningStack, needle: bytes) -> list[str]:
    """Files of the data folder, tables and queue keys that hold the needle."""
    found = [str(path) for path in _files(stack.data) if needle in path.read_bytes()]
    for path in stack.data.rglob("*.db"):
        with sqlite3.connect(path) as connection:
            found += [f"{path}: dump" for line in connection.iterdump() if needle.decode() in line]
    settings = Settings.load({}, data_folder=stack.data)
    with redis.Redis.from_url(settings.redis_address) as queue:
        found += [str(key) for key in queue.scan_iter() if needle in (queue.dump(key) or b"")]
        found += [str(key) for key in queue.scan_iter("lmms:events:*") if needle in repr(queue.xrange(key)).encode()]
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
