"""The server's periodic duty: lost work is queued again, queue and MLflow runs follow the tables."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping

from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.evaluation_queue import Lease, job_id
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.lifecycle import Lifecycle
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import State

_DUTY = "reaper"
_LEADERSHIP_S = 10.0
_LOOK_AT_RUNS_S = 5.0


class Reaper:
    """One tick at a time; of several server processes only the leader's tick does anything."""

    def __init__(
        self,
        store: EvaluationStore,
        lifecycle: Lifecycle,
        mirror: RunMirror,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._mirror = mirror
        self._settings = settings
        self._now = clock
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._runs_looked_at = 0.0

    def tick(self) -> list[str]:
        """Do what is due now.

        Returns:
            One line for each thing that was mended.

        Raises:
            UnavailableError: the queue server does not answer; nothing is judged lost then.
        """
        if not self._store.lead(_DUTY, self._holder, _LEADERSHIP_S):
            return []
        for evaluation in self._store.to_mirror():
            self._lifecycle.mirror(evaluation)
        leases = self._lifecycle.queue.leases()
        queued = set(self._lifecycle.queue.queued())
        done = []
        for evaluation in self._store.unfinished():
            done += self._look_at(evaluation, leases, queued)
        return done + self._cancel_ended_elsewhere()

    def _look_at(self, evaluation: Evaluation, leases: Mapping[str, Lease], queued: set[str]) -> list[str]:
        done = []
        for part in evaluation.parts:
            lease = leases.get(job_id(evaluation.run_id, part.part))
            if evaluation.active_tasks(part.part) and self._is_lost(part, lease):
                self._lifecycle.lose(evaluation, part)
                done.append(f"{evaluation.run_id}: part {part.part} lost its worker {part.box}/{part.slot}")
            elif lease is None and job_id(evaluation.run_id, part.part) not in queued:
                done += self._bring_back(evaluation, part)
        return done

    def _is_lost(self, part: PartStatus, lease: Lease | None) -> bool:
        if lease is not None and lease.token == part.token:
            return False
        seen = max(part.claimed_at or 0.0, part.seen_at or 0.0)
        return self._now() - seen > self._settings.lease_ttl_s / 3

    def _bring_back(self, evaluation: Evaluation, part: PartStatus) -> list[str]:
        if not any(task.state == State.QUEUED for task in evaluation.tasks_of(part.part)):
            return []
        if evaluation.cancel_requested:
            self._lifecycle.cancel(evaluation.run_id)
            return [f"{evaluation.run_id}: cancelled"]
        self._lifecycle.enqueue(evaluation, front=part.token > 0)
        return [f"{evaluation.run_id}: part {part.part} is queued again"]

    def _cancel_ended_elsewhere(self) -> list[str]:
        if self._now() - self._runs_looked_at < _LOOK_AT_RUNS_S:
            return []
        self._runs_looked_at = self._now()
        done = []
        not_shown = {evaluation.run_id for evaluation in self._store.to_mirror()}
        for evaluation in self._store.unfinished():
            if evaluation.run_id in not_shown:
                continue
            if not evaluation.cancel_requested and self._mirror.ended_elsewhere(evaluation):
                self._lifecycle.cancel(evaluation.run_id)
                done.append(f"{evaluation.run_id}: ended or deleted in MLflow, so cancelled")
        return done
