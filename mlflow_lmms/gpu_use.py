"""What every attempt held and used: the source of fair share, quotas, reports and of later estimates.

One row per stretch of work under one fencing token. Who decides what follows from it is not known here.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Integer, case, cast, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from mlflow_lmms.evaluation import Evaluation, PartStatus
from mlflow_lmms.planner.fair_share import HOUR_S, Worked, decayed_use
from mlflow_lmms.planner.fleet import Use as UserUse
from mlflow_lmms.planner.memory_estimate import ObservedPeak
from mlflow_lmms.sql.schema import PartAttemptRow
from mlflow_lmms.work_order import Use

#: After so long what somebody had weighs next to nothing (half-life: a day).
_RECENT_S = 10 * 24 * HOUR_S
_J_PER_KWH = 3.6e6
#: As many of a model's last attempts tell how much memory it takes.
_PEAKS = 20


@dataclass(frozen=True)
class UseSummary:
    """What a user, a box or a run (`name`) had. None: no attempt told it.

    `idle_share` is the share of the held GPU time in which the GPUs did nothing; `queue_wait_s` is the mean wait of
    an attempt.
    """

    name: str
    attempts: int
    gpu_hours: float
    idle_share: float | None
    queue_wait_s: float
    energy_kwh: float | None


class GpuUse:
    """Notes attempts and sums them up."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = clock

    def started(self, evaluation: Evaluation, part: PartStatus) -> None:
        """A worker has claimed the part; a repeated call changes nothing."""
        row = PartAttemptRow(
            run_id=evaluation.run_id,
            part=part.part,
            token=part.token,
            user_name=evaluation.created_by or "",
            model=evaluation.model,
            box=part.box or "",
            gpus=part.gpus,
            devices=json.dumps(part.devices),
            batch_size=evaluation.request.batch_size,
            queued_at=evaluation.created_at if part.queued_at is None else part.queued_at,
            claimed_at=self._now() if part.claimed_at is None else part.claimed_at,
        )
        try:
            with Session(self._engine) as session, session.begin():
                if session.get(PartAttemptRow, (row.run_id, row.part, row.token)) is None:
                    session.add(row)
        except IntegrityError:  # the same call, answered at the same time
            return

    def ended(self, run_id: str, part: str, token: int, outcome: str, use: Use | None) -> None:
        """The attempt is over; only the first call counts. Without measurements the GPUs count for the whole time."""
        now, row = self._now(), PartAttemptRow
        held = row.gpus * (now - row.claimed_at)
        measured = use or Use()
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(row)
                .where(row.run_id == run_id, row.part == part, row.token == token, row.ended_at.is_(None))
                .values(
                    ended_at=now,
                    outcome=outcome,
                    gpu_seconds=measured.gpu_seconds or case((held > 0, held), else_=0.0),
                    peak_memory=measured.peak_memory,
                    mean_utilisation=measured.mean_utilisation,
                    energy_j=measured.energy_j,
                )
            )

    def fetched(self, run_id: str, part: str, token: int, seconds: float) -> None:
        """Note how long the attempt waited for weights or data sets."""
        row = PartAttemptRow
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(row).where(row.run_id == run_id, row.part == part, row.token == token).values(fetch_s=seconds)
            )

    def of_users(self, period_s: float) -> dict[str, UserUse]:
        """What ended attempts used, per user: in the last `period_s`, and lately. Live leases are not counted."""
        now, row = self._now(), PartAttemptRow
        hour = cast(row.ended_at / HOUR_S, Integer)
        query = (
            select(row.user_name, func.sum(row.gpu_seconds), func.max(row.ended_at))
            .where(row.ended_at > now - max(period_s, _RECENT_S), row.gpus > 0)
            .group_by(row.user_name, hour)
        )
        in_period: dict[str, float] = defaultdict(float)
        worked = []
        with Session(self._engine) as session:
            for user, used, last in session.execute(query):
                seconds, ended_at = float(used or 0.0), float(last or 0.0)
                worked.append(Worked(user, 1, ended_at - seconds, ended_at))
                if ended_at > now - period_s:
                    in_period[user] += seconds / HOUR_S
        recent = decayed_use(worked, now)
        return {user: UserUse(in_period.get(user, 0.0), recent[user]) for user in recent}

    def peaks(self, model: str) -> list[ObservedPeak]:
        """The memory that the model's last finished attempts took."""
        row = PartAttemptRow
        query = (
            select(row.peak_memory, row.gpus, row.batch_size)
            .where(row.model == model, row.peak_memory > 0, row.outcome == "finished")
            .order_by(row.ended_at.desc())
            .limit(_PEAKS)
        )
        with Session(self._engine) as session:
            return [ObservedPeak(memory or 0, gpus, batch) for memory, gpus, batch in session.execute(query)]

    def by_user(self, since: float) -> list[UseSummary]:
        """What each user had since then, most GPU-hours first; work that goes on counts until now."""
        return self._by(PartAttemptRow.user_name, since)

    def by_box(self, since: float) -> list[UseSummary]:
        """What was done on each box since then."""
        return self._by(PartAttemptRow.box, since)

    def by_run(self, since: float) -> list[UseSummary]:
        """What each run took since then; `name` is its id."""
        return self._by(PartAttemptRow.run_id, since)

    def _by(self, name: InstrumentedAttribute[str], since: float) -> list[UseSummary]:
        row = PartAttemptRow
        live = row.gpus * (self._now() - row.claimed_at)
        seconds = func.coalesce(row.gpu_seconds, live)
        told = case((row.mean_utilisation.is_not(None), seconds), else_=0.0)
        query = (
            select(
                name,
                func.count(),
                func.sum(seconds),
                func.sum(told),
                func.sum(told * func.coalesce(row.mean_utilisation, 0.0)),
                func.avg(row.claimed_at - row.queued_at),
                func.sum(row.energy_j),
            )
            .where(row.ended_at.is_(None) | (row.ended_at > since))
            .group_by(name)
        )
        with Session(self._engine) as session:
            found = [_summary(values) for values in session.execute(query)]
        return sorted(found, key=lambda one: (-one.gpu_hours, one.name))


def _summary(values: Sequence[Any]) -> UseSummary:
    name, attempts, seconds, told, busy_percent, wait, energy = values
    return UseSummary(
        name=name,
        attempts=attempts,
        gpu_hours=float(seconds) / HOUR_S,
        idle_share=max(0.0, 1 - float(busy_percent) / 100 / float(told)) if told else None,
        queue_wait_s=max(0.0, float(wait)),
        energy_kwh=None if energy is None else float(energy) / _J_PER_KWH,
    )
