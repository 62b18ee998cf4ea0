"""What a queue job runs: one part of an evaluation, in the process that a slot forked for it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import redis
from mlflow import MlflowClient

from mlflow_lmms.errors import ConflictError, LmmsError, NotFoundError, StaleTokenError
from mlflow_lmms.evaluation_queue import job_id
from mlflow_lmms.http import HttpApi
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.settings import Settings
from mlflow_lmms.work_order import WorkOrder
from mlflow_lmms.worker_api_client import HeldPart, WorkerApi
from worker.assignment import Assignment, assigned
from worker.delivery import Delivery
from worker.leases import LeaseBook
from worker.part_run import BoxSide, PartRun
from worker.patience import Patience
from worker.stop_request import StopFlag, StopReason

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
#: After its time is up, a call that is under way may still come back.
_LAST_WORD_S = 3.0


def run_part(run_id: str, part: str) -> None:
    """Run the part whose lease this process holds."""
    assignment = assigned(job_id(run_id, part))
    settings, stop, claim = assignment.settings, assignment.stop, assignment.claim
    http = HttpApi(settings.server_url)
    patience = Patience(stop, settings.undelivered_s)
    held = HeldPart(run_id, part, claim.token)
    with redis.Redis.from_url(settings.redis_address, socket_timeout=10) as connection:
        book = LeaseBook(connection, settings.lease_ttl_s)
        order = claim_work(WorkerApi(http, keep_trying=_asking(stop, settings)), book, assignment, held)
        if order is None:
            return
        client = MlflowClient(settings.server_url)
        api = WorkerApi(http, keep_trying=patience.keep_trying)
        delivery = Delivery(api, RunRecorder(client), held, order.attempt, order.tasks, stop, patience)
        box = BoxSide(assignment.warm, client, quarantine=lambda gpus: _tell(lambda: book.quarantine(gpus)))
        events = EventLog(settings.redis_address)
        work = PartRun(order, claim, settings, stop, delivery, events, os.environ, box)
        _write_command(http, work, run_id)
        if carry_out(work, delivery, stop, patience, free_gpus=lambda: _tell(lambda: book.free_gpus(claim))):
            book.finish(claim)


def _asking(stop: StopFlag, settings: Settings) -> Callable[[], bool]:
    """Whether to go on asking for work: nothing is lost when it gives up, and another box may reach the server."""
    give_up_at = time.monotonic() + settings.undelivered_s
    return lambda: stop.reason is None and time.monotonic() < give_up_at


def _tell(say: Callable[[], None]) -> None:
    try:
        say()
    except redis.RedisError as error:
        logger.warning("the queue server does not learn of the GPUs: %s", error)


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


def carry_out(
    work: PartRun,
    delivery: Delivery,
    stop: StopFlag,
    patience: Patience | None = None,
    free_gpus: Callable[[], None] = lambda: None,
) -> bool:
    """Run and deliver; True when the job need not go back to its queue.

    Args:
        free_gpus: called when no process uses the GPUs any more.
    """
    delivery.start()
    work.run()
    free_gpus()
    if patience is not None:
        patience.only_delivering()
    if work.given_back:
        work.answers.keep()
    by_hand = stop.reason is StopReason.CANCEL
    delivery.close(work.spool.output, by_hand=by_hand, given_back=work.given_back, use=work.use)
    while not delivery.ended(_LOOK_EVERY_S) and stop.leaves_time():
        pass
    if not delivery.ended(_LAST_WORD_S) or not delivery.complete:
        return False
    _tidy(work, delivery)
    return stop.reason is StopReason.CANCEL or not (delivery.again or work.left)


def _tidy(work: PartRun, delivery: Delivery) -> None:
    """The server has everything: forget the results, and the answers too where nobody needs them again."""
    if not delivery.failures and not work.left:
        work.answers.forget()
        work.spool.remove()
        return
    if delivery.failures:
        work.answers.keep()
    work.spool.forget_results()


def _write_command(http: HttpApi, work: PartRun, run_id: str) -> None:
    """Put the command that reproduces the run beside its results; a run without it is none the worse."""
    try:
        command = str(http.call("GET", f"/evaluations/{run_id}")["command"])
        work.spool.prepare()
        (work.spool.output / "command.txt").write_text(command + "\n", encoding="utf-8")
    except (LmmsError, KeyError, OSError) as error:
        logger.warning("run %s gets no command.txt: %s", run_id, error)
