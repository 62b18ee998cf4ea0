"""The server's periodic duty: lost work is queued again, queue and MLflow runs follow the tables."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping

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
        self._unheld_since: dict[str, float] = {}

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
        unfinished = self._store.unfinished()
        self._note_unheld(unfinished, leases)
        done = []
        for evaluation in unfinished:
            done += self._look_at(evaluation, leases, queued)
        return done + self._cancel_ended_elsewhere()

    def _note_unheld(self, evaluations: Iterable[Evaluation], leases: Mapping[str, Lease]) -> None:
        """Keep since when each part that is worked on has been without its worker's lease.

        A lease that the queue server forgot is written again by its worker within a second or two.
        """
        unheld = {}
        for evaluation in evaluations:
            for part in evaluation.parts:
                lease = leases.get(identifier := job_id(evaluation.run_id, part.part))
                if evaluation.active_tasks(part.part) and (lease is None or lease.token != part.token):
                    unheld[identifier] = self._unheld_since.get(identifier, self._now())
        self._unheld_since = unheld

    def _look_at(self, evaluation: Evaluation, leases: Mapping[str, Lease], queued: set[str]) -> list[str]:
        done = []
        for part in evaluation.parts:
            identifier = job_id(evaluation.run_id, part.part)
            if self._is_lost(part, self._unheld_since.get(identifier)):
                self._lifecycle.lose(evaluation, part)
                done.append(f"{evaluation.run_id}: part {part.part} lost its worker {part.box}/{part.slot}")
            elif identifier not in leases and identifier not in queued:
                done += self._bring_back(evaluation, part)
        return done

    def _is_lost(self, part: PartStatus, unheld_since: float | None) -> bool:
        """Whether nobody has held the part, or spoken for it, for a fifth of a lease's time (renewals: a tenth)."""
        if unheld_since is None:
            return False
        patience = self._settings.lease_ttl_s / 5
        return self._now() - unheld_since >= patience and self._now() - (part.seen_at or 0.0) >= patience

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
        for evaluation in self._store.unfinished():
            if not evaluation.cancel_requested and self._mirror.ended_elsewhere(evaluation):
                self._lifecycle.cancel(evaluation.run_id)
                done.append(f"{evaluation.run_id}: ended or deleted in MLflow, so cancelled")
        return done
