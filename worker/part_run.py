"""One part of an evaluation from claim to end: what waits in the spool is delivered, the rest is run and delivered.

It composes the runner's process, the log, the live events and the delivery; each of them knows its own trade.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

from mlflow_lmms.errors import InvalidRequestError, LmmsError, StorageFullError, UnavailableError
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.scrubbing import Scrubber
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FailureClass
from mlflow_lmms.work_order import Use, WorkOrder
from worker.delivery import Delivery
from worker.earlier_samples import fetch_samples
from worker.endpoint_rate import Grants
from worker.evaluation_environment import resolve_secrets
from worker.gpu_check import dirty_gpus
from worker.leases import Claim
from worker.live_part import LivePart
from worker.log_lines import is_progress_bar, level_of
from worker.part_telemetry import PartTelemetry
from worker.registered_model import model_folder
from worker.run_log import RunLog, fetch_log
from worker.runner_end import explain_end, kills_for_memory
from worker.runner_process import RunnerEvent, RunnerLine, RunnerProcess
from worker.runner_start import RUNNER, Places, StartPlan
from worker.saved_answers import SavedAnswers
from worker.spool import Spool
from worker.stop_request import StopFlag, StopReason
from worker.warm_start import WarmStart
from worker.watchdog import Hang, Watchdog, all_stopped

__all__ = ["RUNNER", "BoxSide", "PartRun"]

_LOOK_EVERY_S = 0.2
_GB = 10**9


def _nobody(gpus: Iterable[str]) -> None:
    """Nobody is to be told of GPUs that others use."""


@dataclass(frozen=True)
class BoxSide:
    """What a part has of its box: the warm start, MLflow's client, the look at its GPUs, and whom to tell of them."""

    warm: WarmStart | None = None
    client: MlflowClient | None = None
    check_gpus: Callable[..., dict[str, str]] = dirty_gpus
    quarantine: Callable[[Iterable[str]], None] = _nobody


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
        box: BoxSide | None = None,
    ) -> None:
        self._order = order
        self._claim = claim
        self._settings = settings
        self._stop = stop
        self._delivery = delivery
        self._environ = environ
        self._box = box or BoxSide()
        self._live = LivePart(events, order)
        self._telemetry = PartTelemetry(order, claim, self._live, self._box.client)
        #: Where its results wait.
        self.spool = Spool(settings.data_folder, order.run_id, order.part)
        #: The answers so far.
        self.answers = SavedAnswers(order, self.spool, settings, self._box.client, self._note)
        #: Tasks of which nothing was reported yet.
        self.left = list(order.tasks)
        self._notes: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._current: str | None = None
        self._log: RunLog | None = None
        self._secrets: dict[str, str] = {}
        self._quarantined = False

    @property
    def given_back(self) -> bool:
        """Whether it stopped before its end through no fault of its own."""
        return self._quarantined or self._stop.reason is StopReason.GIVE_BACK

    @property
    def use(self) -> Use:
        """What it used of its GPUs."""
        return self._telemetry.use()

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
            if self.left and self._stop.reason is None and self._gpus_are_ours():
                self._evaluate(self._log)
        except LmmsError as error:
            self._log = self._log or self._open_log()
            self._fail_left(_class_of(error), error.message, retryable=isinstance(error, UnavailableError))
        finally:
            self.answers.close()
            if self._log is not None:
                self._say_notes()
                self._log.close()

    def _open_log(self) -> RunLog:
        file = self.spool.output / "log.jsonl"
        if not file.exists() and self._order.attempt > 1:
            fetch_log(self._order.run_id, file, self._settings.server_url)
        return RunLog(file, Scrubber(self._secrets.values()), self._live.log)

    def _deliver_spooled(self) -> None:
        for task, file in self.spool.results().items():
            if task in self.left and not self._order.rescore:
                self._say("INFO", f"the result of {task} was found on this box and is recorded")
                self.left.remove(task)
                self._delivery.finished(task, file)

    def _gpus_are_ours(self) -> bool:
        """Look at the leased GPUs once more; where others use them the part goes elsewhere."""
        dirty = self._box.check_gpus(self._claim.gpus, self._claim.mark, memory=self._claim.memory)
        for gpu, reason in dirty.items():
            self._say("WARNING", f"GPU {gpu} cannot be used now, and the part goes back to its queue: {reason}")
        if dirty:
            self._quarantined = True
            self._box.quarantine(dirty)
        return not dirty

    def _evaluate(self, log: RunLog) -> None:
        order = self._order
        plan = StartPlan(order, self._claim, self._settings, self._environ, self._secrets, self._box.warm)
        places = Places(self.answers.open(), self.spool.output)
        if order.rescore:
            places = Places(places.cache, places.output, self.spool.earlier)
            fetch_samples(order.run_id, self.left, self.spool.earlier, self._settings.server_url)
        start = plan.start(self.left, self._model_args(), places)
        runner = RunnerProcess(
            start.command, start.environ, self.spool.work, self._claim.mark, self._settings.stop_grace_s
        )
        killed_before = kills_for_memory()
        self._telemetry.start()
        try:
            with start.granting() as (grants, inherited):
                runner.start(start.request, inherited)
                hang = self._follow(runner, log, grants)
        finally:
            runner.close()
            self._telemetry.stop()
        if hang is not None:
            only = None if hang.whole_part else self._current
            self._fail_left(FailureClass.TIMEOUT, hang.message, only=only)
        elif self._stop.reason is None and not self._delivery.lost and self.left:
            end = explain_end(runner.code, memory_kills=kills_for_memory() - killed_before)
            self._fail_left(end.failure, end.message, retryable=end.retryable, only=self._current)

    def _follow(self, runner: RunnerProcess, log: RunLog, grants: Grants | None) -> Hang | None:
        """Take what the runner says until its end; why it was stopped, if it hung."""
        order, keeper = self._order, runner.process.pid
        watchdog = Watchdog(
            now=time.monotonic(),
            deadline_s=order.deadline_s,
            no_progress_s=order.no_progress_s,
            phase_deadlines_s=order.phase_deadlines_s,
            is_stopped=lambda: all_stopped(self._claim.mark, keeper),
        )
        hang = None
        while not runner.ended:
            for item in runner.read(_LOOK_EVERY_S):
                if isinstance(item, RunnerEvent):
                    watchdog.take(item.data, time.monotonic())
                    self._take(item.data, grants)
                elif isinstance(item, RunnerLine) and not is_progress_bar(item.text):
                    self._say(level_of(item.text), item.text)
            if grants is not None and grants.waiting:
                grants.look()
                watchdog.waits(time.monotonic())
            self._say_notes()
            log.flush(due_only=True)
            stopping = self._stop.reason is not None or self._delivery.lost
            hang = hang or (None if stopping else watchdog.hang(time.monotonic()))
            if hang is not None or stopping:
                runner.stop()
        return hang

    def _take(self, event: Mapping[str, Any], grants: Grants | None) -> None:
        """One event of the runner; one that this version does not know is left out."""
        kind, task = event.get("event"), event.get("task")
        if kind in ("phase", "progress", "score"):
            self._live.show(kind, event)
        elif kind == "log" and self._log is not None:
            where = {"phase": event.get("phase"), "rank": event.get("rank", 0), "at": event.get("time")}
            self._log.add(str(event.get("level", "INFO")), str(event.get("message", "")), **where)
        elif kind == "ask" and grants is not None:
            grants.ask(int(event.get("requests", 1)))
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
        failure = _failure(event.get("failure"))
        self._report(task, failure, message, retryable=failure is FailureClass.WORKER_LOST)

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

    def _note(self, level: str, message: str) -> None:
        """Say something from any thread; the log has one writer."""
        self._notes.put((level, message))

    def _say_notes(self) -> None:
        while not self._notes.empty():
            self._say(*self._notes.get())

    def _model_args(self) -> dict[str, str]:
        model = self._order.model
        arguments = dict(model.model_args)
        if model.artifact_uri is not None and model.artifact_argument is not None and not self._order.rescore:
            self._live.show("phase", {"task": None, "phase": "model_load"})
            reserve = int(self._settings.disk_reserve_gb * _GB)
            folder = model_folder(model, self._settings.data_folder, self._settings.server_url, reserve=reserve)
            arguments[model.artifact_argument] = str(folder)
        return arguments


def _class_of(error: LmmsError) -> FailureClass:
    if isinstance(error, InvalidRequestError):
        return FailureClass.BAD_REQUEST
    return FailureClass.UNKNOWN if isinstance(error, StorageFullError) else FailureClass.MODEL_LOAD


def _failure(name: Any) -> FailureClass:
    try:
        return FailureClass(name)
    except ValueError:
        return FailureClass.UNKNOWN
