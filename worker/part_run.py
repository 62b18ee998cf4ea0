"""One part of an evaluation from claim to end: what waits in the spool is delivered, the rest is run and delivered.

It composes the runner's process, the log, the live events and the delivery; each of them knows its own trade.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_lmms.errors import InvalidRequestError, LmmsError, StorageFullError, UnavailableError
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.scrubbing import Scrubber
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FailureClass
from mlflow_lmms.work_order import WorkOrder
from worker.delivery import Delivery
from worker.evaluation_environment import python_of, resolve_secrets, runner_environ, runner_path
from worker.leases import Claim
from worker.live_part import LivePart
from worker.log_lines import is_progress_bar, level_of
from worker.registered_model import model_folder
from worker.run_log import RunLog, fetch_log
from worker.runner_end import explain_end, kills_for_memory
from worker.runner_process import RunnerEvent, RunnerLine, RunnerProcess
from worker.spool import Spool
from worker.stop_request import StopFlag
from worker.warm_start import WarmStart

PROTOCOL = 1
_LOOK_EVERY_S = 0.2
#: Fields that the runner's request has from the work order as they are.
_SAME = (
    *("run_id", "part", "attempt", "limit", "offset", "batch_size", "num_fewshot", "seeds", "gen_kwargs"),
    *("repeats", "chunk_size", "thumbnail_bytes", "trust_remote_code", "primary", "dimensions", "errored"),
)
RUNNER = ("-P", "-m", "worker.runner")


class PartRun:
    """Runs the tasks of one work order that have no result yet."""

    def __init__(
        self,
        order: WorkOrder,
        claim: Claim,
        settings: Settings,
        stop: StopFlag,
        delivery: Delivery,
        events: EventLog,
        environ: Mapping[str, str],
        warm: WarmStart | None = None,
    ) -> None:
        self._order = order
        self._claim = claim
        self._settings = settings
        self._stop = stop
        self._delivery = delivery
        self._environ = environ
        self._warm = warm
        self._live = LivePart(events, order)
        #: Where its results wait.
        self.spool = Spool(settings.data_folder, order.run_id, order.part)
        #: Tasks of which nothing was reported yet.
        self.left = list(order.tasks)
        self._current: str | None = None
        self._log: RunLog | None = None
        self._secrets: dict[str, str] = {}

    def run(self) -> None:
        """Do it all; afterwards every task not in `left` was reported."""
        try:
            self.spool.prepare()
        except StorageFullError as error:
            self._fail_left(FailureClass.UNKNOWN, error.message)
            return
        try:
            self._secrets = resolve_secrets(self._order.secrets, self._settings, self._environ)
            self._log = self._open_log()
            self._deliver_spooled()
            if self.left and self._stop.reason is None:
                self._evaluate(self._log)
        except LmmsError as error:
            self._log = self._log or self._open_log()
            self._fail_left(_class_of(error), error.message, retryable=isinstance(error, UnavailableError))
        finally:
            if self._log is not None:
                self._log.close()

    def _open_log(self) -> RunLog:
        file = self.spool.output / "log.jsonl"
        if not file.exists() and self._order.attempt > 1:
            fetch_log(self._order.run_id, file, self._settings.server_url)
        return RunLog(file, Scrubber(self._secrets.values()), self._live.log)

    def _deliver_spooled(self) -> None:
        for task, file in self.spool.results().items():
            if task in self.left:
                self._say("INFO", f"the result of {task} was found on this box and is recorded")
                self.left.remove(task)
                self._delivery.finished(task, file)

    def _evaluate(self, log: RunLog) -> None:
        python = python_of(self._order.environment, self._settings)
        request = self._request(self._model_args())
        environ = runner_environ(self._environ, mark=self._claim.mark, gpus=self._claim.gpus, secrets=self._secrets)
        if self._order.environment is not None:
            environ["PYTHONPATH"] = str(runner_path(self._settings.data_folder.absolute() / "runner"))
        command = [python, *RUNNER]
        if self._warm is not None:
            command = self._warm.command(command, self._order.model.adapter, environ, self._secrets)
        runner = RunnerProcess(command, environ, self.spool.work, self._claim.mark, self._settings.stop_grace_s)
        killed_before = kills_for_memory()
        try:
            runner.start(request)
            timed_out = self._follow(runner, log)
        finally:
            runner.close()
        if timed_out:
            why = f"the part ran longer than {self._order.deadline_s:.0f} s (MLFLOW_LMMS_DEADLINE_S) and was stopped"
            self._fail_left(FailureClass.TIMEOUT, why)
        elif self._stop.reason is None and not self._delivery.lost and self.left:
            end = explain_end(runner.code, memory_kills=kills_for_memory() - killed_before)
            self._fail_left(end.failure, end.message, retryable=end.retryable, only=self._current)

    def _follow(self, runner: RunnerProcess, log: RunLog) -> bool:
        """Take what the runner says until its end; True when it was stopped for its deadline."""
        deadline = time.monotonic() + self._order.deadline_s
        timed_out = False
        while not runner.ended:
            for item in runner.read(_LOOK_EVERY_S):
                if isinstance(item, RunnerEvent):
                    self._take(item.data)
                elif isinstance(item, RunnerLine) and not is_progress_bar(item.text):
                    self._say(level_of(item.text), item.text)
            log.flush(due_only=True)
            timed_out = timed_out or time.monotonic() > deadline
            if timed_out or self._stop.reason is not None or self._delivery.lost:
                runner.stop()
        return timed_out

    def _take(self, event: Mapping[str, Any]) -> None:
        """One event of the runner; one that this version does not know is left out."""
        kind, task = event.get("event"), event.get("task")
        if kind in ("phase", "progress", "score"):
            self._live.show(kind, event)
        elif kind == "log" and self._log is not None:
            where = {"phase": event.get("phase"), "rank": event.get("rank", 0), "at": event.get("time")}
            self._log.add(str(event.get("level", "INFO")), str(event.get("message", "")), **where)
        elif task in self.left:
            self._take_outcome(str(kind), str(task), event)

    def _take_outcome(self, kind: str, task: str, event: Mapping[str, Any]) -> None:
        if kind == "task-started":
            self._current = task
            self._delivery.started(task)
            return
        if kind not in ("task-finished", "task-failed"):
            return
        self.left.remove(task)
        self._current = None
        if kind == "task-finished":
            self._delivery.finished(task, self.spool.output / str(event["result"]))
            return
        message, traceback = str(event.get("message", "")), str(event.get("traceback", ""))
        self._say("ERROR", f"{task} failed: {message}" + (f"\n{traceback}" if traceback else ""))
        self._report(task, _failure(event.get("failure")), message)

    def _fail_left(
        self, failure: FailureClass, message: str, *, retryable: bool = False, only: str | None = None
    ) -> None:
        """Fail the tasks that have no result; with `only`, that one, and the others are run again."""
        self._say("ERROR", message)
        for task in [only] if only in self.left else list(self.left):
            self.left.remove(task)
            self._report(task, failure, message, retryable=retryable)

    def _report(self, task: str, failure: FailureClass, message: str, *, retryable: bool = False) -> None:
        scrub = Scrubber(self._secrets.values()).scrub
        tail = self._log.tail() if self._log is not None else ""
        self._delivery.failed(task, failure, scrub(message), tail, retryable=retryable)

    def _say(self, level: str, message: str) -> None:
        if self._log is not None:
            self._log.add(level, message, phase=self._live.phase)

    def _model_args(self) -> str:
        model = self._order.model
        arguments = dict(model.model_args)
        if model.artifact_uri is not None and model.artifact_argument is not None:
            self._live.show("phase", {"task": None, "phase": "model_load"})
            folder = model_folder(model, self._settings.data_folder, self._settings.server_url)
            arguments[model.artifact_argument] = str(folder)
        return format_model_arguments(arguments)

    def _request(self, model_args: str) -> dict[str, Any]:
        order = self._order
        same = order.model_dump(mode="json", include=set(_SAME))
        return {
            **same,
            "protocol": PROTOCOL,
            "model": order.model.adapter,
            "model_args": model_args,
            "tasks": list(self.left),
            "include_paths": [folder for folder in order.task_folders if Path(folder).is_dir()],
            "cache_folder": str(self.spool.cache),
            "output_folder": str(self.spool.output),
            "device": None,
        }


def _class_of(error: LmmsError) -> FailureClass:
    if isinstance(error, InvalidRequestError):
        return FailureClass.BAD_REQUEST
    return FailureClass.UNKNOWN if isinstance(error, StorageFullError) else FailureClass.MODEL_LOAD


def _failure(name: Any) -> FailureClass:
    try:
        return FailureClass(name)
    except ValueError:
        return FailureClass.UNKNOWN
