"""How a part ends other than by itself: hung, stopped, given back, on a dirty GPU, or while the server is away."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from test_worker_part import RUN, World

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.names import Artifact
from mlflow_lmms.states import FailureClass
from mlflow_lmms.work_order import WorkOrder
from mlflow_lmms.worker_api_client import HeldPart
from worker.delivery import Delivery
from worker.job import carry_out
from worker.leases import Claim
from worker.part_run import BoxSide, PartRun
from worker.patience import Patience
from worker.process_tree import kill_all, processes_of
from worker.spool import jobs_with_results
from worker.stop_request import StopFlag, StopReason


@pytest.fixture
def world(empty_valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    world = World(empty_valkey, tmp_path)
    yield world
    left = processes_of(world.claim.mark)
    kill_all(world.claim.mark)
    assert left == [], "a process was left over"


def run(
    world: World,
    order: WorkOrder,
    box: BoxSide | None = None,
    *,
    claim: Claim | None = None,
    patience: Patience | None = None,
    free_gpus: Callable[[], None] = lambda: None,
) -> bool:
    """Carry an order out; True when the job need not go back to its queue."""
    held = HeldPart(order.run_id, order.part, order.token)
    delivery = Delivery(world.server, world.recorder, held, order.attempt, order.tasks, world.stop, patience)
    environ = {"PATH": os.environ["PATH"]}
    events = EventLog(world.url)
    claim = claim or world.claim
    part = PartRun(order, claim, world.settings, world.stop, delivery, events, environ, box)
    return carry_out(part, delivery, world.stop, patience, free_gpus)


def when_hanging(world: World, run_id: str, action: Callable[[], None]) -> threading.Thread:
    """Do something once a run's task hangs."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not any("hanging" in str(event.data) for event in EventLog(world.url).read(run_id)):
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def failures(world: World) -> list[tuple[Any, ...]]:
    return [call[1:4] for call in world.server.told if call[0] == "failed"]


def end_of(world: World) -> tuple[Any, ...]:
    """What the server was told last."""
    return world.server.told[-1]


def test_a_hung_task_is_stopped_and_the_others_run_again(world: World) -> None:
    order = world.order("ok_1", "hangs_2", "ok_3", no_progress_s={"generate": 1.0})
    assert not run(world, order), "what was not begun goes back to the queue"
    ((task, failure, message),) = failures(world)
    assert (task, failure) == ("hangs_2", FailureClass.TIMEOUT)
    assert "no progress in phase generate of hangs_2 for 1 s" in message
    assert ("finished", "ok_1") in world.server.names()
    assert end_of(world)[:2] == ("part finished", False)


def test_a_phase_over_its_deadline_is_stopped(world: World) -> None:
    run(world, world.order("hangs_1", phase_deadlines_s={"generate": 1.0}))
    ((task, failure, message),) = failures(world)
    assert (task, failure) == ("hangs_1", FailureClass.TIMEOUT)
    assert "in phase generate of hangs_1 longer than 1 s" in message


def test_a_runner_that_somebody_stopped_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.watchdog.LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("worker.watchdog.STOPPED_S", 0.5)

    def stop() -> None:
        for process in processes_of(world.claim.mark):
            if "kept_process" not in Path(f"/proc/{process.pid}/cmdline").read_text():
                os.kill(process.pid, signal.SIGSTOP)

    thread = world.meanwhile(stop)
    run(world, world.order("hangs_1"))
    thread.join()
    ((task, failure, message),) = failures(world)
    assert (task, failure) == ("hangs_1", FailureClass.TIMEOUT)
    assert "stopped by a signal (SIGSTOP) in phase generate of hangs_1" in message


def test_a_killed_rank_may_be_tried_again(world: World) -> None:
    run(world, world.order("rank_1"))
    (failed,) = [call for call in world.server.told if call[0] == "failed"]
    assert failed[2] is FailureClass.WORKER_LOST
    assert failed[5] is True


def test_a_part_that_is_given_back_says_so(world: World) -> None:
    thread = world.meanwhile(lambda: world.stop.ask(StopReason.GIVE_BACK))
    assert not run(world, world.order("ok_1", "hangs_2"))
    thread.join()
    assert failures(world) == []
    assert end_of(world)[:2] == ("part finished", True)


def test_what_is_given_back_goes_on_from_its_checkpoint_on_another_box(
    world: World, tmp_path: Path, mlflow_client: MlflowClient
) -> None:
    run_id = mlflow_client.create_run("0").info.run_id
    order = world.order("ok_1", "hangs_2", run_id=run_id, checkpoint=True)
    cache = world.settings.data_folder / "spool" / run_id / "p0" / "cache"
    cache.mkdir(parents=True)
    (cache / "answers").write_text("42")
    thread = when_hanging(world, run_id, lambda: world.stop.ask(StopReason.GIVE_BACK))
    assert not run(world, order, BoxSide(client=mlflow_client))
    thread.join()
    stored = [entry.path for entry in mlflow_client.list_artifacts(run_id, Artifact.CHECKPOINT)]
    assert stored == [f"{Artifact.CHECKPOINT}/p0.7.tar.gz"]

    (tmp_path / "elsewhere").mkdir()
    elsewhere = World(world.url, tmp_path / "elsewhere")
    again = elsewhere.order("ok_2", run_id=run_id, checkpoint=True, attempt=2, token=9)
    seen = elsewhere.settings.data_folder / "spool" / run_id / "p0" / "cache" / "answers"
    found: list[str] = []
    elsewhere.recorder.record_run_files = lambda run_id, folder: found.append(seen.read_text())  # type: ignore[method-assign]
    assert run(elsewhere, again, BoxSide(client=mlflow_client))
    assert found == ["42"]
    assert mlflow_client.list_artifacts(run_id, Artifact.CHECKPOINT) == [], "it is not needed any more"


def test_boxes_that_share_a_folder_go_on_from_there(world: World, tmp_path: Path) -> None:
    world.settings = world.settings.model_copy(update={"cache_folder": tmp_path / "shared"})
    thread = world.meanwhile(lambda: world.stop.ask(StopReason.GIVE_BACK))
    run(world, world.order("hangs_1"))
    thread.join()
    request = json.loads(world.recorder.files["request.json"])
    own = tmp_path / "shared" / RUN / "p0" / "7"
    assert request["cache_folder"] == str(own)
    (own / "answers").write_text("42")
    world.next()
    seen: list[str] = []
    following = tmp_path / "shared" / RUN / "p0" / "8" / "answers"
    world.recorder.record_run_files = lambda run_id, folder: seen.append(following.read_text())  # type: ignore[method-assign]
    assert run(world, world.order("ok_1", token=8, attempt=2))
    assert seen == ["42"]
    assert not (tmp_path / "shared" / RUN).exists()


def test_a_gpu_that_others_use_is_left_alone_and_the_part_goes_elsewhere(world: World) -> None:
    quarantined: list[str] = []

    def note(gpus: Iterable[str]) -> None:
        quarantined.extend(gpus)

    def dirty(gpus: Iterable[str], mark: str, *, memory: int | None) -> dict[str, str]:
        return {gpu: "process 17 uses 40 GiB of it" for gpu in gpus if gpu == "GPU-b"}

    claim = Claim(world.claim.job_id, world.claim.queue_key, 7, ("GPU-a", "GPU-b"), "b", "b.gpu0")
    assert not run(world, world.order("ok_1"), BoxSide(check_gpus=dirty, quarantine=note), claim=claim)
    assert quarantined == ["GPU-b"]
    assert failures(world) == []
    assert end_of(world)[:2] == ("part finished", True)
    assert "process 17 uses 40 GiB" in world.recorder.files["log.jsonl"]
    assert "request.json" not in world.recorder.files, "nothing was started"


def test_gpus_are_free_as_soon_as_nobody_uses_them(world: World) -> None:
    seen: list[tuple[int, bool]] = []

    def freed() -> None:
        told = ("part finished",) in world.server.names()
        seen.append((len(processes_of(world.claim.mark)), told))

    assert run(world, world.order("ok_1"), free_gpus=freed)
    assert seen == [(0, False)]


def test_results_that_nobody_takes_do_not_block_the_slot_and_are_delivered_later(world: World) -> None:
    world.server.trouble = UnavailableError("away")
    world.server._keep_trying = lambda: False
    began = time.monotonic()
    patience = Patience(world.stop, 0.5)
    world.recorder.trouble = None
    assert not run(world, world.order("ok_1"), patience=patience)
    assert time.monotonic() - began < 15
    assert jobs_with_results(world.settings.data_folder) == [world.claim.job_id]
    world.next()
    assert run(world, world.order("ok_1", token=8, attempt=2))
    assert ("finished", "ok_1") in world.server.names()
    assert "was found on this box" in world.recorder.files["log.jsonl"]


def test_answers_are_scored_again_without_a_model(world: World, tmp_path: Path, mlflow_client: MlflowClient) -> None:
    run_id = mlflow_client.create_run("0").info.run_id
    samples = tmp_path / "ok_1.parquet"
    samples.write_text("the answers")
    mlflow_client.log_artifact(run_id, str(samples), Artifact.SAMPLES)
    world.settings = world.settings.model_copy(update={"server_url": mlflow_client.tracking_uri})
    seen: list[dict[str, str]] = []

    def look(run_id: str, folder: Path) -> None:
        request = json.loads((folder / "request.json").read_text())
        seen.append({path.name: path.read_text() for path in Path(request["rescore_from"]).iterdir()})

    world.recorder.record_run_files = look  # type: ignore[method-assign]
    assert run(world, world.order("ok_1", run_id=run_id, rescore=True, attempt=2))
    assert seen == [{"ok_1.parquet": "the answers"}]
    assert ("finished", "ok_1") in world.server.names()


def test_a_rescore_without_samples_says_what_is_missing(world: World, mlflow_client: MlflowClient) -> None:
    run_id = mlflow_client.create_run("0").info.run_id
    world.settings = world.settings.model_copy(update={"server_url": mlflow_client.tracking_uri})
    run(world, world.order("ok_1", run_id=run_id, rescore=True, attempt=2))
    ((task, failure, message),) = failures(world)
    assert (task, failure) == ("ok_1", FailureClass.BAD_REQUEST)
    assert "has no samples of ok_1" in message


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_patience_has_no_end_while_a_part_computes_and_begins_anew_with_each_answer() -> None:
    clock, stop = Clock(), StopFlag()
    patience = Patience(stop, 60.0, clock=clock)
    assert patience.keep_trying()
    clock.now += 10_000
    assert patience.keep_trying()
    patience.only_delivering()
    assert patience.keep_trying(), "the time before does not count"
    clock.now += 59
    assert patience.keep_trying()
    patience.answered()
    clock.now += 59
    assert patience.keep_trying()
    clock.now += 60
    assert not patience.keep_trying()
    patience.answered()
    assert patience.keep_trying()
    stop.ask(StopReason.GIVE_BACK)
    stop._until = 0.0
    assert not patience.keep_trying()


def test_two_threads_may_say_something(world: World) -> None:
    order = world.order("ok_1")
    held = HeldPart(RUN, "p0", 7)
    delivery = Delivery(world.server, world.recorder, held, 1, order.tasks, world.stop)
    part = PartRun(order, world.claim, world.settings, world.stop, delivery, EventLog(world.url), os.environ)
    speakers = [threading.Thread(target=part._note, args=("INFO", f"said by {number}")) for number in range(8)]
    for speaker in speakers:
        speaker.start()
    carry_out(part, delivery, world.stop)
    for speaker in speakers:
        speaker.join()
    log = world.recorder.files["log.jsonl"]
    assert [f"said by {number}" in log for number in range(8)] == [True] * 8
