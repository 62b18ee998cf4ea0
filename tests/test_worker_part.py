"""One part from claim to delivery: the real processes and queue server, a made-up runner, and a server that notes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from fleet_boxes import announce
from waiting_job import waiting

from mlflow_lmms.errors import ConflictError, InvalidRequestError, StaleTokenError, UnavailableError
from mlflow_lmms.evaluation_queue import EvaluationQueue, job_id
from mlflow_lmms.http import HttpApi
from mlflow_lmms.live_events import Event, EventLog
from mlflow_lmms.request import Seeds
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.task_result import TaskResult, read_task_result
from mlflow_lmms.work_order import ResolvedModel, Use, WorkOrder
from mlflow_lmms.worker_api_client import HeldPart, WorkerApi
from worker.assignment import Assignment
from worker.delivery import Delivery
from worker.job import carry_out, claim_work
from worker.leases import Claim, LeaseBook, Slot
from worker.part_run import PartRun
from worker.process_tree import kill_all, processes_of
from worker.spool import Spool, jobs_with_results, tidy
from worker.stop_request import StopFlag, StopReason

#: Its own for each process of tests: processes are found, and killed, by the run that they work on.
RUN = f"{os.getpid():08x}{'cd34' * 6}"
SECRET = "tops3cret-value"


class Server(WorkerApi):
    """The server's side, in this process: notes what it is told."""

    def __init__(self, stop: StopFlag) -> None:
        super().__init__(HttpApi("http://127.0.0.1:9"), keep_trying=stop.leaves_time)
        self.told: list[tuple[Any, ...]] = []
        self.trouble: Exception | None = None
        self.cancelled = False
        self.retries = 0
        self.order: WorkOrder | None = None

    def _note(self, *what: Any) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.told.append(what)

    def claim(self, held: HeldPart, *, box: str, slot: str, gpus: tuple[str, ...]) -> WorkOrder:
        self._note("claim", held.token)
        assert self.order is not None
        return self.order

    def started(self, held: HeldPart, task: str) -> None:
        self._note("started", task)

    def recording(self, held: HeldPart, task: str) -> None:
        self._note("recording", task)

    def task_finished(
        self, held: HeldPart, task: str, *, samples: int, metric: str | None, score: float | None
    ) -> None:
        self._note("finished", task, samples, metric, score)

    def task_failed(
        self, held: HeldPart, task: str, failure: FailureClass, message: str, log_tail: str, *, retryable: bool
    ) -> State:
        self._note("failed", task, failure, message, log_tail, retryable)
        self.retries += retryable
        return State.QUEUED if retryable and self.retries <= 2 else State.FAILED

    def part_finished(self, held: HeldPart, *, given_back: bool = False, use: Use | None = None) -> None:
        self._note("part finished", given_back, use)

    def heartbeat(self, held: HeldPart) -> bool:
        if self.trouble is not None:
            raise self.trouble
        return self.cancelled

    def names(self) -> list[tuple[Any, ...]]:
        return [call[:1] if call[0] == "part finished" else call[:2] for call in self.told]


class Recorder(RunRecorder):
    """Keeps what it is given, in the order in which the server is told."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.files: dict[str, str] = {}
        self.trouble: Exception | None = None

    def record_task(self, run_id: str, result_file: Path, attempt: int) -> TaskResult:
        if self.trouble is not None:
            raise self.trouble
        self._server._note("record", result_file.stem)
        return read_task_result(result_file)

    def record_run_files(self, run_id: str, folder: Path) -> None:
        self._server._note("files")
        self.files = {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


class World:
    """One claimed part and everything around it."""

    def __init__(self, url: str, folder: Path) -> None:
        python = folder / "python"
        script = Path(__file__).with_name("stand_in_runner.py")
        python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -P '{script}'\n")
        python.chmod(0o755)
        self.settings = Settings(
            data_folder=folder / "data",
            redis_url=url,
            server_url="http://127.0.0.1:9",
            stop_grace_s=0.2,
            environments={"stand-in": str(python)},
            box="b",
        )
        self.url = url
        self.next()

    def next(self) -> None:
        """Another attempt, by a new process that knows nothing of the one before."""
        self.stop = StopFlag()
        self.server = Server(self.stop)
        self.recorder = Recorder(self.server)

    def order(self, *tasks: str, **changes: Any) -> WorkOrder:
        model = ResolvedModel(label="m v1", name="m", version="1", adapter="a", model_args={"x": "1"}, gpus=0)
        given: dict[str, Any] = {
            "run_id": RUN, "experiment_id": "1", "part": "p0", "token": 7, "attempt": 1, "tasks": tasks,
            "all_tasks": tasks, "model": model, "task_folders": (), "limit": None, "offset": 0, "batch_size": 1,
            "num_fewshot": None, "seeds": Seeds(), "gen_kwargs": None, "repeats": None, "secrets": (),
            "environment": "stand-in", "chunk_size": 8, "thumbnail_bytes": 0, "deadline_s": 60.0,
        }  # fmt: skip
        return WorkOrder(**{**given, **changes})

    @property
    def claim(self) -> Claim:
        return Claim(job_id(RUN, "p0"), "rq:queue:lmms-normal", 7, (), "b", "b.cpu0")

    @property
    def spool(self) -> Spool:
        return Spool(self.settings.data_folder, RUN, "p0")

    def run(self, *tasks: str, environ: dict[str, str] | None = None, **changes: Any) -> bool:
        order = self.order(*tasks, **changes)
        held = HeldPart(RUN, "p0", 7)
        delivery = Delivery(self.server, self.recorder, held, order.attempt, order.tasks, self.stop)
        events = EventLog(self.url)
        outside = {"PATH": os.environ["PATH"], **(environ or {})}
        return carry_out(
            PartRun(order, self.claim, self.settings, self.stop, delivery, events, outside), delivery, self.stop
        )

    def events(self, kind: str) -> list[Event]:
        return [event for event in EventLog(self.url).read(RUN) if event.kind == kind]

    def meanwhile(self, action: Callable[[], None]) -> threading.Thread:
        """Do something once the runner hangs."""

        def wait() -> None:
            deadline = time.monotonic() + 20
            while not any("hanging" in str(event.data) for event in self.events("log")):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.02)
            action()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@pytest.fixture
def world(empty_valkey: str, tmp_path: Path) -> Iterator[World]:
    world = World(empty_valkey, tmp_path)
    yield world
    left = processes_of(world.claim.mark)
    kill_all(world.claim.mark)
    assert left == [], "a process was left over"


def test_results_are_recorded_one_by_one_and_the_last_is_confirmed_when_all_is_there(world: World) -> None:
    assert world.run("ok_1", "ok_2")
    assert world.server.names() == [
        *[("started", "ok_1"), ("recording", "ok_1"), ("record", "ok_1"), ("finished", "ok_1")],
        *[("started", "ok_2"), ("recording", "ok_2"), ("record", "ok_2")],
        *[("files",), ("finished", "ok_2"), ("part finished",)],
    ]
    assert world.server.told[3] == ("finished", "ok_1", 4, "acc", 0.5)
    assert not world.spool.folder.exists()
    assert list((world.settings.data_folder / "spool").iterdir()) == []


def test_the_runner_is_asked_as_the_protocol_says(world: World) -> None:
    world.run("ok_1", gen_kwargs="temperature=0", num_fewshot=2)
    request = json.loads(world.recorder.files["request.json"])
    assert request == {
        "protocol": 1, "run_id": RUN, "part": "p0", "attempt": 1, "model": "a", "model_args": "x=1",
        "tasks": ["ok_1"], "include_paths": [], "limit": None, "offset": 0, "batch_size": 1, "num_fewshot": 2,
        "seeds": {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}, "gen_kwargs": "temperature=0",
        "repeats": None, "chunk_size": 8, "cache_folder": str(world.spool.cache),
        "output_folder": str(world.spool.output), "thumbnail_bytes": 0, "device": None, "trust_remote_code": False,
        "primary": {}, "dimensions": {}, "errored": {"policy": "as_scored", "fail_above": None},
        "processes": 1, "rescore_from": None, "rate": None,
    }  # fmt: skip


def test_choices_for_tasks_reach_the_runner(world: World) -> None:
    chosen: dict[str, Any] = {"primary": {"ok_1": "acc:none"}, "dimensions": {"ok_1": ["size"]}}
    world.run("ok_1", **chosen, errored={"policy": "drop", "fail_above": 0.1})
    request = json.loads(world.recorder.files["request.json"])
    assert {key: request[key] for key in chosen} == chosen
    assert request["errored"] == {"policy": "drop", "fail_above": 0.1}


def test_events_reach_the_run_s_stream_and_final_scores_the_feed(world: World, empty_valkey: str) -> None:
    world.run("ok_1")
    (score,) = world.events("score")
    assert (score.part, score.token, score.data["value"], score.data["final"]) == ("p0", 7, 0.5, True)
    assert [event.data["phase"] for event in world.events("phase")] == ["generate"]
    assert world.events("progress")[-1].data["done"] == 4
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as connection:
        feed: Any = connection.xrange("lmms:feed")
    assert json.loads(feed[-1][1]["data"])["run_id"] == RUN


def test_a_failed_task_leaves_the_others_their_results(world: World) -> None:
    assert world.run("fails_1", "ok_2")
    failed = next(call for call in world.server.told if call[0] == "failed")
    assert failed[1:4] == ("fails_1", FailureClass.SCORING, "it cannot be scored")
    assert "Traceback: deep" in failed[4]
    assert failed[5] is False
    assert ("finished", "ok_2") in world.server.names()
    assert world.spool.cache.is_dir(), "a retry by the user would generate everything again"
    assert jobs_with_results(world.settings.data_folder) == []


def test_a_killed_runner_is_tried_again_and_what_is_finished_stays(world: World) -> None:
    assert not world.run("ok_1", "killed_2", "ok_3"), "the job must go back to its queue"
    failed = [call for call in world.server.told if call[0] == "failed"]
    assert [(call[1], call[2], call[5]) for call in failed] == [("killed_2", FailureClass.WORKER_LOST, True)]
    assert "signal 9 (SIGKILL)" in failed[0][3]
    assert ("finished", "ok_1") in world.server.names()
    assert world.server.names()[-1] == ("part finished",)


def test_a_runner_that_dies_before_any_task_fails_them_all(world: World) -> None:
    assert not world.run("early_1", "ok_2")
    assert [call[1] for call in world.server.told if call[0] == "failed"] == ["early_1", "ok_2"]


def test_an_exit_without_result_tells_the_end_of_the_log(world: World) -> None:
    assert world.run("quits_1")
    (failed,) = [call for call in world.server.told if call[0] == "failed"]
    assert failed[2] is FailureClass.UNKNOWN
    assert "exit code 3" in failed[3]
    assert "ERROR ValueError: no good" in failed[4]


def test_a_result_that_waits_on_this_box_is_recorded_and_not_run_again(world: World) -> None:
    def give_up() -> None:
        deadline = time.monotonic() + 20
        while not (world.spool.output / "tasks" / "ok_2.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        world.stop.ask(StopReason.GIVE_BACK)
        world.stop._until = 0.0

    world.server.trouble = UnavailableError("away")
    giving_up = threading.Thread(target=give_up)
    giving_up.start()
    assert not world.run("ok_1", "ok_2")
    giving_up.join()
    assert world.server.told == []
    assert jobs_with_results(world.settings.data_folder) == [job_id(RUN, "p0")]
    world.next()
    assert world.run("ok_1", "ok_2", environment="not offered any more")
    assert [call for call in world.server.names() if call[0] in ("finished", "failed")] == [
        ("finished", "ok_1"),
        ("finished", "ok_2"),
    ]
    assert "was found on this box" in world.recorder.files["log.jsonl"]


def test_a_server_that_is_away_for_a_while_gets_everything_afterwards(world: World) -> None:
    def come_back() -> None:
        deadline = time.monotonic() + 20
        while not (world.spool.output / "tasks" / "ok_2.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        world.recorder.trouble = None

    world.recorder.trouble = requests.ConnectionError("refused")
    thread = threading.Thread(target=come_back)
    thread.start()
    assert world.run("ok_1", "ok_2")
    thread.join()
    assert world.server.names()[-1] == ("part finished",)
    assert [call for call in world.server.names() if call[0] == "record"] == [("record", "ok_1"), ("record", "ok_2")]


def test_a_broken_result_is_run_again(world: World) -> None:
    world.spool.prepare()
    (world.spool.output / "tasks").mkdir()
    (world.spool.output / "tasks" / "ok_1.json").write_text('{"protocol": 1, "task"')
    assert world.run("ok_1")
    assert ("finished", "ok_1") in world.server.names()


def test_cancel_ends_the_whole_tree_and_keeps_what_is_finished(world: World) -> None:
    world.server.cancelled = True
    thread = world.meanwhile(lambda: world.stop.ask(StopReason.CANCEL))
    started = time.monotonic()
    assert world.run("ok_1", "hangs_2", "ok_3")
    thread.join()
    assert time.monotonic() - started < 20
    assert world.server.names()[-2:] == [("files",), ("part finished",)]
    assert ("finished", "ok_1") in world.server.names()
    assert not [call for call in world.server.told if call[0] == "failed"]


def test_a_stop_that_the_server_does_not_know_of_fails_what_is_left(world: World) -> None:
    thread = world.meanwhile(lambda: world.stop.ask(StopReason.CANCEL))
    assert world.run("hangs_1", "ok_2")
    thread.join()
    failed = [call for call in world.server.told if call[0] == "failed"]
    assert [call[1] for call in failed] == ["hangs_1", "ok_2"]
    assert "stopped by hand" in failed[0][3]


def test_a_part_that_is_given_back_is_not_failed(world: World) -> None:
    thread = world.meanwhile(lambda: world.stop.ask(StopReason.GIVE_BACK))
    assert not world.run("ok_1", "hangs_2")
    thread.join()
    assert not [call for call in world.server.told if call[0] == "failed"]
    assert world.server.names()[-1] == ("part finished",)


def test_a_part_that_somebody_else_has_is_dropped_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        world.server.trouble = StaleTokenError("token 7 is no longer valid")

    thread = world.meanwhile(lose)
    monkeypatch.setattr("worker.delivery._HEARTBEAT_EVERY_S", 0.1)
    assert not world.run("hangs_1")
    thread.join()
    assert world.server.names() == [("started", "hangs_1")]


def test_a_part_that_runs_too_long_is_stopped(world: World) -> None:
    assert world.run("hangs_1", "ok_2", deadline_s=1.5)
    failed = [call for call in world.server.told if call[0] == "failed"]
    assert [(call[1], call[2]) for call in failed] == [
        ("hangs_1", FailureClass.TIMEOUT),
        ("ok_2", FailureClass.TIMEOUT),
    ]
    assert "2 s (MLFLOW_LMMS_DEADLINE_S)" in failed[0][3]


def test_a_secret_appears_nowhere(world: World, empty_valkey: str) -> None:
    command_lines: list[str] = []

    def look() -> None:
        for process in processes_of(world.claim.mark):
            command_lines.append(Path(f"/proc/{process.pid}/cmdline").read_text())
        world.stop.ask(StopReason.CANCEL)

    thread = world.meanwhile(look)
    world.run("leaks_1", "hangs_2", secrets=("OPENAI_API_KEY",), environ={"OPENAI_API_KEY": SECRET})
    thread.join()
    assert len(command_lines) >= 3
    log = world.recorder.files["log.jsonl"]
    for line in ("stdout ***", "api_key=***", "log ***", "Traceback ***"):
        assert line in log
    with redis.Redis.from_url(empty_valkey) as connection:
        stored = repr([connection.xrange(key) for key in connection.scan_iter(_type="stream")])
    assert "stdout ***" in stored
    for place in (log, repr(world.server.told), repr(command_lines), stored, repr(world.recorder.files)):
        assert SECRET not in place


def test_a_secret_that_the_box_does_not_have_fails_as_bad_request_with_the_remedy(world: World) -> None:
    assert world.run("ok_1", "ok_2", secrets=("OPENAI_API_KEY",))
    failed = [call for call in world.server.told if call[0] == "failed"]
    assert [call[1:3] for call in failed] == [
        ("ok_1", FailureClass.BAD_REQUEST),
        ("ok_2", FailureClass.BAD_REQUEST),
    ]
    assert "box b has no secret OPENAI_API_KEY" in failed[0][3]
    assert "has no secret" in world.recorder.files["log.jsonl"]


def test_a_registered_model_s_files_are_downloaded_once(world: World, tmp_path: Path) -> None:
    source = tmp_path / "registry" / "model"
    source.mkdir(parents=True)
    (source / "weights.json").write_text("[1]")
    model = ResolvedModel(
        label="m v3", name="m", version="3", adapter="a", model_args={}, gpus=0, artifact_uri=f"file://{source}",
        artifact_argument="path",
    )  # fmt: skip
    assert world.run("ok_1", model=model)
    arguments = json.loads(world.recorder.files["request.json"])["model_args"]
    folder = Path(arguments.removeprefix("path="))
    assert folder.parent == world.settings.data_folder.absolute() / "models"
    assert (folder / "weights.json").read_text() == "[1]"
    shutil.rmtree(source)
    world.next()
    assert world.run("ok_1", model=model)
    assert ("finished", "ok_1") in world.server.names()
    shutil.rmtree(folder)
    world.next()
    assert not world.run("ok_1", model=model)
    (failed,) = [call for call in world.server.told if call[0] == "failed"]
    assert failed[2] is FailureClass.MODEL_LOAD
    assert "m v3 cannot be" in failed[3]
    assert [path.name for path in folder.parent.iterdir()] == [], "a half download was left"


def test_a_folder_that_cannot_be_written_is_told(world: World) -> None:
    world.settings.data_folder.parent.mkdir(exist_ok=True)
    world.settings.data_folder.write_text("a file in the way")
    assert world.run("ok_1")
    (failed,) = [call for call in world.server.told if call[0] == "failed"]
    assert "MLFLOW_LMMS_DATA_FOLDER" in failed[3]


@pytest.mark.parametrize(
    ("trouble", "queued_again"),
    [
        (ConflictError("nothing left to run"), False),
        (InvalidRequestError("this server speaks worker protocol 3"), True),
        (StaleTokenError("older", minimum_token=50), True),
    ],
)
def test_a_claim_that_the_server_refuses(world: World, trouble: Exception, queued_again: bool) -> None:
    with redis.Redis.from_url(world.url) as connection:
        book = LeaseBook(connection, 15)
        queue = EvaluationQueue(world.url)
        announce(connection, "b")
        queue.enqueue(waiting(RUN, "p0", "normal", 0))
        claim = book.claim(Slot("b", "b.cpu0"))
        assert claim is not None
        world.server.trouble = trouble
        held = HeldPart(RUN, "p0", claim.token)
        assert claim_work(world.server, book, Assignment(claim, world.settings, world.stop), held) is None
        book.release(claim.job_id, claim.token)
        assert (queue.queued() == [claim.job_id]) is queued_again
        if isinstance(trouble, StaleTokenError):
            again = book.claim(Slot("b", "b.cpu0"))
            assert again is not None
            assert again.token == 50


def test_old_caches_go_and_results_stay(tmp_path: Path) -> None:
    for run in ("old", "new", "waiting"):
        spool = Spool(tmp_path, run, "p0")
        spool.prepare()
        (spool.cache / "answers").touch()
    waiting = Spool(tmp_path, "waiting", "p0").output / "tasks"
    waiting.mkdir()
    (waiting / "t.json").touch()
    for path in [*tmp_path.rglob("old/**/*"), *tmp_path.rglob("waiting/**/*")]:
        os.utime(path, (1, 1))
    tidy(tmp_path, 3600)
    assert sorted(path.parent.name for path in tmp_path.glob("spool/*/p0")) == ["new", "waiting"]
