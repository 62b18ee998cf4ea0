"""The server's planning: reads the fleet, makes a plan, tells it to the boxes. Of several servers one leads.

The plan itself is pure (`planner.plan`). A tick with nothing new costs a few reads: a plan is made when something
changed that matters to it, and every few seconds because time passes.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlflow_lmms.box_admin import BoxAdmin
from mlflow_lmms.evaluation_queue import EvaluationQueue, split_job_id
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.gpu_use import GpuUse
from mlflow_lmms.hopeless_jobs import HopelessJobs
from mlflow_lmms.planner.fair_share import HOUR_S
from mlflow_lmms.planner.fleet import FleetState, Plan, Policy, Quotas, Use, Wait
from mlflow_lmms.planner.plan import DEFAULT, plan
from mlflow_lmms.prefetch import Prefetch
from mlflow_lmms.queue_keys import BoxReport
from mlflow_lmms.quotas import QuotaStore
from mlflow_lmms.settings import Settings
from mlflow_lmms.spreading import Spreading

_DUTY = "scheduler"
_LEADERSHIP_S = 8.0
#: How often leadership is taken or renewed, words of admins are shown again, and a lost counter is looked for.
_DUTIES_EVERY_S = 1.5
#: A plan is made anew after so long although nothing seems to have changed: ends come nearer, memory is used.
_REPLAN_S = 5.0
_USES_EVERY_S = 5.0
_WAITS_EVERY_S = 30.0
#: Tokens that the queue server may have given out in the last second that it forgot.
_FORGOTTEN_TOKENS = 1000
_EMPTY = Plan((), None, ())


class Refuses(Protocol):
    """Fails the waiting tasks of a part that can never run."""

    def refuse(self, run_id: str, part: str, reason: str) -> list[str]:
        """The tasks that failed."""


@dataclass
class _Remembered:
    """What a leader knows of its last plan; a new leader knows nothing and plans anew."""

    key: Hashable = None
    planned_at: float = float("-inf")
    held: bool = False
    waits: tuple[Wait, ...] | None = None
    waits_at: float = float("-inf")
    uses_at: float = float("-inf")
    uses: dict[str, Use] = field(default_factory=dict)
    quotas: Quotas = field(default_factory=Quotas)
    fence: int | None = None


class Scheduler:
    """One tick at a time; of several server processes only the leader's tick does anything."""

    def __init__(
        self,
        store: EvaluationStore,
        queue: EvaluationQueue,
        fleet: FleetView,
        orders: FleetOrders,
        box_admin: BoxAdmin,
        quotas: QuotaStore,
        use: GpuUse,
        spreading: Spreading,
        prefetch: Prefetch,
        lifecycle: Refuses,
        settings: Settings,
        *,
        policy: Policy = DEFAULT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._queue, self._fleet, self._orders = store, queue, fleet, orders
        self._box_admin, self._quotas, self._use = box_admin, quotas, use
        self._spreading, self._prefetch, self._lifecycle = spreading, prefetch, lifecycle
        self._settings, self._policy, self._clock = settings, policy, clock
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._hopeless = HopelessJobs(settings.never_fits_grace_s)
        self._leads = False
        self._duties_at = float("-inf")
        self._last = _Remembered()

    def tick(self) -> list[str]:
        """Plan, if this process leads and there is something to plan.

        Returns:
            One line for each thing that was done beside planning.

        Raises:
            UnavailableError: the queue server does not answer; boxes then go on without a plan after some seconds.
        """
        if self._clock() - self._duties_at >= _DUTIES_EVERY_S:
            self._leads = self._store.lead(_DUTY, self._holder, _LEADERSHIP_S)
            self._duties_at = self._clock()
            if not self._leads:
                self._last = _Remembered()
            else:
                self._box_admin.show()
                self._raise_fence()
        return self._plan() if self._leads else []

    def _raise_fence(self) -> None:
        """Tokens that were given out must not be given out again by a queue server that has forgotten them."""
        now = self._queue.raise_fence(0)
        known = self._last.fence
        if known is None:
            now = self._queue.raise_fence(self._store.largest_token())
        elif now < known:
            now = self._queue.raise_fence(max(known, self._store.largest_token()) + _FORGOTTEN_TOKENS)
        self._last.fence = now

    def _plan(self) -> list[str]:
        if not self._fleet.waiting():
            self._nothing_waits()
            return []
        now = self._fleet.now()
        reports = self._fleet.boxes()
        state = self._read(reports)
        key = _what_matters(state, self._policy)
        due = self._clock() - self._last.planned_at >= (_DUTIES_EVERY_S if self._last.held else _REPLAN_S)
        if key == self._last.key and not due:
            self._orders.keep_fresh()
            return []
        held = self._prefetch.hold(state, {report.box: report.cache for report in reports}, now)
        made = plan(held.state, now, self._policy)
        made = replace(made, waits=held.told(made.waits))
        self._publish(made, now)
        self._last.key, self._last.planned_at, self._last.held = key, self._clock(), bool(held.waits)
        return [*self._give_up(made), *self._spreading.spread(held.state, made, now)]

    def _nothing_waits(self) -> None:
        if self._last.key == _EMPTY:
            self._orders.keep_fresh()
            return
        self._orders.publish(_EMPTY, self._fleet.now())
        self._prefetch.withdraw()
        self._last.key, self._last.waits = _EMPTY, ()

    def _read(self, reports: Sequence[BoxReport]) -> FleetState:
        last = self._last
        if self._clock() - last.uses_at >= _USES_EVERY_S:
            last.quotas = self._quotas.all()
            last.uses = self._use.of_users(self._settings.quota_days * 24 * HOUR_S)
            last.uses_at = self._clock()
        return self._fleet.state(last.quotas, last.uses, reports=reports)

    def _publish(self, made: Plan, now: float) -> None:
        """Hundreds of unchanged reasons are not written again with every plan, but now and then in case of a loss."""
        last = self._last
        again = made.waits != last.waits or self._clock() - last.waits_at >= _WAITS_EVERY_S
        self._orders.publish(made, now, with_waits=again)
        if again:
            last.waits, last.waits_at = made.waits, self._clock()

    def _give_up(self, made: Plan) -> list[str]:
        lines = []
        for wait in self._hopeless.given_up(made, self._clock()):
            run_id, part = split_job_id(wait.job)
            if self._lifecycle.refuse(run_id, part, wait.reason):
                lines.append(f"{run_id}: part {part} can never run and has failed: {wait.reason}")
        return lines


def _what_matters(state: FleetState, policy: Policy) -> Hashable:
    """What lets a plan turn out differently at once; memory that comes and goes is looked at now and then."""
    boxes = tuple(
        replace(
            box,
            gpus=tuple(replace(gpu, free=None, foreign=int(gpu.foreign > policy.foreign_memory)) for gpu in box.gpus),
        )
        for box in state.boxes
    )
    leases = frozenset((lease.job, lease.box, lease.gpus, lease.memory) for lease in state.leases)
    quotas = (state.quotas.default, tuple(sorted(state.quotas.users.items())))
    return boxes, state.jobs, leases, quotas
