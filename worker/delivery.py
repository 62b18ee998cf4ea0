"""Brings what a part has to say to the server: in order, one after the other, repeated until the server has it.

It runs on a thread of its own, so that a slow or absent server does not stall the evaluation. The last task is
confirmed only after the log and the other files stand in the run: a run that is finished is complete.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import requests
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import ConflictError, StaleTokenError, UnavailableError, UnreadableOutputError
from mlflow_lmms.names import DEFAULT_FILTER
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.task_result import TaskResult
from mlflow_lmms.work_order import Use
from mlflow_lmms.worker_api_client import HeldPart, WorkerApi
from worker.patience import Patience
from worker.stop_request import StopFlag, StopReason

logger = logging.getLogger(__name__)

_HEARTBEAT_EVERY_S = 10.0
_TRY_AGAIN_S = 1.0
_LONGEST_PAUSE_S = 10.0
Answer = TypeVar("Answer")


class Delivery:
    """Delivers for one part; `lost` when somebody else has it, `complete` when the server has everything."""

    def __init__(
        self,
        api: WorkerApi,
        recorder: RunRecorder,
        held: HeldPart,
        attempt: int,
        tasks: Collection[str],
        stop: StopFlag,
        patience: Patience | None = None,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name=f"delivery {held.run_id}", daemon=True)
        self._api = api
        self._recorder = recorder
        self._held = held
        self._attempt = attempt
        self._open = set(tasks)
        self._announced: set[str] = set()
        self._stop = stop
        self._patience = patience or Patience(stop, float("inf"))
        self._steps: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._last: Callable[[], None] | None = None
        self._gave_up = False
        self.lost = False
        self.complete = False
        self.failures = False
        self.again: set[str] = set()

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def ended(self, wait_s: float) -> bool:
        """Whether it has ended, waiting so long for it."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    # Called by the part; each returns at once

    def started(self, task: str) -> None:
        """The runner has begun with a task."""
        self._steps.put(lambda: self._start(task))

    def finished(self, task: str, result: Path) -> None:
        """A task's result lies in a file."""
        self._steps.put(lambda: self._record(task, result))

    def failed(self, task: str, failure: FailureClass, message: str, tail: str, *, retryable: bool = False) -> None:
        """A task has no result."""
        self._steps.put(lambda: self._fail(task, failure, message, tail, retryable))

    def close(self, folder: Path, *, by_hand: bool = False, given_back: bool = False, use: Use | None = None) -> None:
        """Nothing more comes: deliver the files of the run in `folder`, and end.

        Args:
            by_hand: whether the part was stopped, perhaps by somebody who did not tell the server.
            given_back: whether it was stopped before its end through no fault of its own.
            use: what it used of its GPUs.
        """
        if by_hand:
            self._steps.put(self._explain)
        self._steps.put(lambda: self._files(folder))
        self._steps.put(lambda: self._last() if self._last is not None else None)
        self._steps.put(lambda: self._api.part_finished(self._held, given_back=given_back, use=use))
        self._steps.put(None)

    # On the thread

    def _run(self) -> None:
        while True:
            try:
                step = self._steps.get(timeout=_HEARTBEAT_EVERY_S)
            except queue.Empty:
                self._guarded(self._beat)
                continue
            if self.lost:
                return
            if step is None:
                self.complete = not self._gave_up
                return
            self._guarded(step)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
            self._patience.answered()
        except StaleTokenError as error:
            logger.error("the part is lost: %s", error)
            self.lost = True
        except ConflictError as error:
            logger.warning("the server does not want this any more: %s", error)
        except UnavailableError as error:
            logger.warning("given up for now, the results wait in the spool: %s", error)
            self._gave_up = True

    def _beat(self) -> None:
        try:
            cancel = self._api.heartbeat(self._held)
        except UnavailableError:
            return
        if cancel:
            self._stop.ask(StopReason.CANCEL)

    def _start(self, task: str) -> None:
        self._api.started(self._held, task)
        self._announced.add(task)

    def _record(self, task: str, file: Path) -> None:
        if task not in self._announced:
            self._start(task)
        self._api.recording(self._held, task)
        try:
            result = self._until_taken(lambda: self._recorder.record_task(self._held.run_id, file, self._attempt))
        except (UnreadableOutputError, OSError) as error:
            self._fail(task, FailureClass.UNKNOWN, f"the runner's result cannot be read: {error}", "", False)
            return
        except MlflowException as error:
            self._fail(task, FailureClass.UNKNOWN, f"MLflow refused the result: {error.message}", "", False)
            return
        self._confirm(task, lambda: self._finish(task, result))

    def _finish(self, task: str, result: TaskResult) -> None:
        primary, value = result.primary, result.primary_metric
        name = None
        if primary is not None:
            name = primary.metric if primary.filter == DEFAULT_FILTER else f"{primary.metric}:{primary.filter}"
        self._api.task_finished(
            self._held, task, samples=result.samples, metric=name, score=value.value if value is not None else None
        )

    def _fail(self, task: str, failure: FailureClass, message: str, tail: str, retryable: bool) -> None:
        self.failures = True

        def tell() -> None:
            if self._api.task_failed(self._held, task, failure, message, tail, retryable=retryable) == State.QUEUED:
                self.again.add(task)

        self._confirm(task, tell)

    def _confirm(self, task: str, tell: Callable[[], None]) -> None:
        """Tell the outcome of a task; that of the last one when everything else is done."""
        self._open.discard(task)
        if self._open:
            tell()
        else:
            self._last = tell

    def _explain(self) -> None:
        """Fail what is left if the server did not ask for the stop: then it came from RQ's own stop command."""
        if not self._api.heartbeat(self._held):
            for task in sorted(self._open):
                self._fail(task, FailureClass.UNKNOWN, "it was stopped by hand, with RQ's stop command", "", False)

    def _files(self, folder: Path) -> None:
        try:
            self._until_taken(lambda: self._recorder.record_run_files(self._held.run_id, folder))
        except (MlflowException, OSError) as error:
            logger.error("the log of run %s could not be stored: %s", self._held.run_id, error)

    def _until_taken(self, record: Callable[[], Answer]) -> Answer:
        """Repeat `record` while MLflow or its artifact store is away.

        Raises:
            UnavailableError: it is to be given up. MlflowException: MLflow refuses it.
        """
        pause = _TRY_AGAIN_S
        while True:
            try:
                return record()
            except MlflowException as error:
                if int(error.get_http_status_code()) < 500:  # type: ignore[no-untyped-call]
                    raise
                trouble: Exception = error
            except _away() as error:
                trouble = error
            if not self._patience.keep_trying():
                raise UnavailableError(f"MLflow does not take the results: {trouble}")
            logger.warning("MLflow does not take the results now: %s", trouble)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def _away() -> tuple[type[Exception], ...]:
    """What an absent server or artifact store raises; boto3 is there only where artifacts go to S3 directly."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (requests.RequestException,)
    return (requests.RequestException, Boto3Error, BotoCoreError, ClientError)
