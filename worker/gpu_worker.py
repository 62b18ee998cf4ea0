"""The RQ worker of one slot: claims jobs under leases, runs each in a forked process, and leaves nothing behind.

Stock RQ loses jobs and orphans processes in the cases that the overrides here name. What a part does is not known
here (`worker.job`); neither is the rest of the box (`worker.supervisor`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

import redis
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from mlflow_lmms.evaluation_queue import QUEUES
from mlflow_lmms.settings import Settings
from worker.assignment import Assignment, assign
from worker.lease_keeper import LeaseKeeper
from worker.leases import Claim, LeaseBook, Slot
from worker.lone_slot import lone_slot
from worker.process_tree import end_with_parent, kill_all
from worker.safe_job import RefusedJobError, SafeJob
from worker.spool import jobs_with_results
from worker.stop_request import SIGNALS, WRAP_UP_S, StopFlag, StopReason
from worker.warm_start import WarmStart

#: To a slot's process: take no new work, and give back what runs.
GIVE_BACK_SIGNAL = signal.SIGUSR1
#: The same, as often as it comes: take no new work, and let what runs end.
ORPHAN_SIGNAL = signal.SIGUSR2

_LOOK_EVERY_S = 0.2
_HEARTBEAT_EVERY_S = 5.0
_LONGEST_PAUSE_S = 10.0
#: After the grace that the evaluation has, its process may need this long to bring in what is finished.
_WRAP_UP_S = WRAP_UP_S + 10
#: What reading a forged or damaged job may raise.
_UNREADABLE = (RefusedJobError, NoSuchJobError, ValueError, TypeError, KeyError, AttributeError)


class GpuWorker(Worker):
    """One slot of a box; made by `worker.slot`, or by ``rq worker`` with the settings of the environment."""

    job_class = SafeJob

    def __init__(
        self,
        queues: Iterable[str | Queue] = (),
        name: str | None = None,
        *,
        slot: Slot | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        """Prepare the slot; whatever queues, serializer and job class are asked for, it takes its own."""
        self.settings = settings or Settings.load()
        interval = max(1, int(self.settings.lease_ttl_s / 5))
        options |= {"serializer": JSONSerializer, "job_class": SafeJob, "job_monitoring_interval": interval}
        super().__init__(list(QUEUES), name or (slot.name if slot else None), **options)
        self.slot = slot or Slot(self.settings.box, self.name)
        self._supervised = slot is not None
        self.book = LeaseBook(self.connection, self.settings.lease_ttl_s)
        self._losses = 0
        self._rest_until = 0.0
        self._claim: Claim | None = None
        self._claimed_at = 0.0
        self._asked: StopReason | None = None
        self._last_resort: threading.Timer | None = None
        self.warm = WarmStart(self.settings.stop_grace_s) if self.settings.warm_start else None

    @property
    def connection_timeout(self) -> int:
        """Seconds that a command may take; RQ's own value (minutes) is for blocking pops, which are not used."""
        return 10

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds after which RQ's registry takes the job for lost; our leases know it much earlier."""
        return 3 * int(self.job_monitoring_interval) + 5

    def bootstrap(self, *args: Any, **options: Any) -> None:
        """Start work; a slot without a supervisor also announces and sweeps its box."""
        super().bootstrap(*args, **options)
        if not self._supervised:
            self.slot, duties = lone_slot(self.settings, self.connection, self.name)
            duties.start()

    # Taking jobs

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Claim the next job that fits the slot (RQ would pop any job, and lose it if it died now)."""
        idle_since = time.monotonic()
        pause, heard = _LOOK_EVERY_S, 0.0
        with suppress(redis.RedisError):
            self.set_state(WorkerStatus.IDLE)
        while not self._stop_requested:
            try:
                if time.monotonic() - heard > _HEARTBEAT_EVERY_S:
                    self.heartbeat()
                    heard = time.monotonic()
                if time.monotonic() >= self._rest_until and (found := self._next()) is not None:
                    return found
                pause = _LOOK_EVERY_S
            except redis.RedisError as error:
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                self.log.error("slot %s: the queue server does not answer: %s", self.slot.name, error)
            if timeout is None or (max_idle_time is not None and time.monotonic() - idle_since >= max_idle_time):
                return None
            time.sleep(pause)
        return None

    def _next(self) -> tuple[Job, Queue] | None:
        self._claimed_at = time.monotonic()
        claim = self.book.claim(self.slot, jobs_with_results(self.settings.data_folder))
        if claim is None:
            return None
        job = None
        try:
            queue = Queue.from_queue_key(
                claim.queue_key, connection=self.connection, job_class=SafeJob, serializer=JSONSerializer
            )
            job = SafeJob.fetch(claim.job_id, connection=self.connection, serializer=JSONSerializer)
            assert isinstance(job, SafeJob)
            job.part()
        except _UNREADABLE as error:
            self._refuse(claim, job, error)
            return None
        self._claim = claim
        return job, queue

    def _refuse(self, claim: Claim, job: Job | None, error: Exception) -> None:
        self.log.error("slot %s: %s", self.slot.name, error)
        if job is not None:
            with self.connection.pipeline() as pipeline:
                record_job_failure(job, str(error), pipeline)
                pipeline.execute()
        self.book.finish(claim)
        self.book.release(claim.job_id, claim.token)

    # Running one

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run the job under its lease; afterwards no process of it is left and the lease is given up."""
        assert self._claim is not None, "a job is executed only after it was claimed"
        claim, self._stopped_job_id = self._claim, None
        keeper = LeaseKeeper(
            self.connection,
            claim,
            self.settings.lease_ttl_s,
            since=self._claimed_at,
            on_cancel=lambda: self._ask(StopReason.CANCEL),
            on_give_back=lambda: self._ask(StopReason.GIVE_BACK),
            on_lost=lambda why: self._kill(claim, why),
        )
        keeper.start()
        try:
            super().execute_job(job, queue)
        except redis.RedisError as error:
            self.log.error("slot %s: the queue server does not answer: %s", self.slot.name, error)
        finally:
            self._leave_nothing(claim)
            keeper.stop()
            asked, self._asked = self._asked, None  # not before: one may have come between claim and fork
            self._release(claim, asked)
            if self.warm is not None and not self._stop_requested:
                self.warm.tend()

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork; a request to stop that came before, or comes right now, is not lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS.values())
        self._parent = os.getpid()
        super().fork_work_horse(job, queue)  # the child does not return from here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS.values())
        if self._asked is not None:
            self._ask(self._asked)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Entry of the forked process: end with the slot, and know what is held."""
        if not end_with_parent(signal.SIGKILL, self._parent) or self._claim is None:
            os._exit(1)
        self._stop = StopFlag()
        assign(Assignment(self._claim, self.settings, self._stop, self.warm))
        super().main_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """Let a request to stop set a flag; Ctrl-C is for the supervisor."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._stop.listen()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Tell RQ that the job is alive; a stock worker dies when Redis is away just then."""
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            self.log.warning("slot %s: no heartbeat: %s", self.slot.name, error)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tell RQ that the slot is alive; likewise."""
        try:
            super().heartbeat(timeout, pipeline)
        except redis.RedisError as error:
            self.log.warning("slot %s: no heartbeat: %s", self.slot.name, error)

    # Stopping

    def _shutdown(self) -> None:
        """First SIGTERM or SIGINT: no new work, wait for what runs. (RQ's raises, and would lose a fresh claim.)"""
        self._stop_requested = True

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Second one, or the supervisor's word: the part stops too and goes back to its queue."""
        self._stop_requested = True
        self._ask(StopReason.GIVE_BACK)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        signal.signal(GIVE_BACK_SIGNAL, self.request_force_stop)
        signal.signal(ORPHAN_SIGNAL, self._orphaned)

    def _orphaned(self, number: int, frame: FrameType | None) -> None:
        self._stop_requested = True

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """RQ's stop command, on its pub/sub thread. (RQ's kills the whole group, its own if it comes too early.)"""
        self._ask(StopReason.CANCEL)

    def _ask(self, reason: StopReason) -> None:
        """Ask the part to stop, and see to it that it does."""
        self._asked = self._asked or reason
        pid = self.horse_pid
        if pid == 0:  # not forked yet; asked again after it
            return
        with suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[reason])
        if self._last_resort is None and self._claim is not None:
            limit = self.settings.stop_grace_s + _WRAP_UP_S
            why = f"it did not stop within {limit:.0f} s"
            self._last_resort = threading.Timer(limit, self._kill, [self._claim, why])
            self._last_resort.daemon = True
            self._last_resort.start()

    def _kill(self, claim: Claim, why: str) -> None:
        """Kill everything that runs under the lease, at once."""
        self.log.error("slot %s: job %s is killed: %s", self.slot.name, claim.job_id, why)
        if self.horse_pid and self._claim is claim:
            with suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGKILL)
        kill_all(claim.mark)

    def _leave_nothing(self, claim: Claim) -> None:
        if self._last_resort is not None:
            self._last_resort.cancel()
            self._last_resort = None
        if self.horse_pid:  # RQ gave up watching it
            self._kill(claim, "its slot cannot watch over it any more")
            self.wait_for_horse()
            self._horse_pid = 0
        kill_all(claim.mark)
        self._claim = None

    def _release(self, claim: Claim, asked: StopReason | None) -> None:
        try:
            came_back = self.book.release(claim.job_id, claim.token) and asked is not StopReason.GIVE_BACK
            # A job that never gets anywhere must not spin; another slot may have more luck with it.
            self._losses = self._losses + 1 if came_back else 0
            self._rest_until = time.monotonic() + min(0.25 * 2**self._losses, _LONGEST_PAUSE_S) * came_back
        except redis.RedisError as error:
            self.log.error("slot %s: the lease of %s runs out by itself: %s", self.slot.name, claim.job_id, error)
