"""What a queue job runs: one part of an evaluation, in the process that a slot forked for it."""

from __future__ import annotations

import logging
import os

import redis
from mlflow import MlflowClient

from mlflow_lmms.errors import ConflictError, LmmsError, NotFoundError, StaleTokenError
from mlflow_lmms.evaluation_queue import job_id
from mlflow_lmms.http import HttpApi
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.work_order import WorkOrder
from mlflow_lmms.worker_api_client import HeldPart, WorkerApi
from worker.assignment import Assignment, assigned
from worker.delivery import Delivery
from worker.leases import LeaseBook
from worker.part_run import PartRun
from worker.stop_request import StopFlag, StopReason

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
#: After its time is up, a call that is under way may still come back.
_LAST_WORD_S = 3.0


def run_part(run_id: str, part: str) -> None:
    """Run the part whose lease this process holds."""
    assignment = assigned(job_id(run_id, part))
    settings, stop = assignment.settings, assignment.stop
    http = HttpApi(settings.server_url)
    api = WorkerApi(http, keep_trying=stop.leaves_time)
    held = HeldPart(run_id, part, assignment.claim.token)
    with redis.Redis.from_url(settings.redis_address, socket_timeout=10) as connection:
        book = LeaseBook(connection, settings.lease_ttl_s)
        asking = WorkerApi(http, keep_trying=lambda: stop.reason is None)  # nothing is lost if it gives up
        order = claim_work(asking, book, assignment, held)
        if order is None:
            return
        recorder = RunRecorder(MlflowClient(settings.server_url))
        delivery = Delivery(api, recorder, held, order.attempt, order.tasks, stop)
        work = PartRun(
            order,
            assignment.claim,
            settings,
            stop,
            delivery,
            EventLog(settings.redis_address),
            os.environ,
            assignment.warm,
        )
        _write_command(http, work, run_id)
        if carry_out(work, delivery, stop):
            book.finish(assignment.claim)


def claim_work(api: WorkerApi, book: LeaseBook, assignment: Assignment, held: HeldPart) -> WorkOrder | None:
    """Tell the server of the lease and get the work; None when there is nothing to be done under this lease."""
    claim = assignment.claim
    try:
        return api.claim(held, box=claim.box, slot=claim.slot, gpus=claim.gpus)
    except StaleTokenError as error:
        # Redis has lost its counter; the job goes back and is claimed again with a token that counts.
        book.raise_fence(int(error.details.get("minimum_token", claim.token + 1)) - 1)
    except (ConflictError, NotFoundError) as error:
        logger.info("job %s is dropped: %s", claim.job_id, error)
        book.finish(claim)
    except LmmsError as error:
        logger.error("job %s goes back to its queue: %s", claim.job_id, error)
    return None


def carry_out(work: PartRun, delivery: Delivery, stop: StopFlag) -> bool:
    """Run and deliver; True when the job need not go back to its queue."""
    delivery.start()
    work.run()
    delivery.close(work.spool.output, by_hand=stop.reason is StopReason.CANCEL)
    while not delivery.ended(_LOOK_EVERY_S) and stop.leaves_time():
        pass
    if not delivery.ended(_LAST_WORD_S) or not delivery.complete:
        return False
    if not delivery.failures and not work.left:
        work.spool.remove()
    else:
        work.spool.forget_results()
    return stop.reason is StopReason.CANCEL or not (delivery.again or work.left)


def _write_command(http: HttpApi, work: PartRun, run_id: str) -> None:
    """Put the command that reproduces the run beside its results; a run without it is none the worse."""
    try:
        command = str(http.call("GET", f"/evaluations/{run_id}")["command"])
        work.spool.prepare()
        (work.spool.output / "command.txt").write_text(command + "\n", encoding="utf-8")
    except (LmmsError, KeyError, OSError) as error:
        logger.warning("run %s gets no command.txt: %s", run_id, error)
