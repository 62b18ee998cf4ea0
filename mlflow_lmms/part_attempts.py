"""The attempts of one run, as its page lists them: where, when, how long it waited, what it used. Read only."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlflow_lmms.sql.schema import PartAttemptRow

_HOUR_S = 3600.0


@dataclass(frozen=True)
class PartAttempt:
    """One stretch of work on a part; times in unix seconds. None: it goes on, or nothing was measured."""

    part: str
    box: str
    gpus: int
    queued_at: float
    claimed_at: float
    ended_at: float | None
    outcome: str | None
    gpu_hours: float | None
    mean_utilisation: float | None
    peak_memory: int | None
    energy_j: float | None

    @property
    def waited_s(self) -> float:
        """How long the part had waited in the queue."""
        return max(0.0, self.claimed_at - self.queued_at)


def attempts_of(engine: Engine, run_id: str) -> list[PartAttempt]:
    """The attempts of a run, oldest first."""
    query = select(PartAttemptRow).where(PartAttemptRow.run_id == run_id).order_by(PartAttemptRow.claimed_at)
    with Session(engine) as session:
        return [_attempt(row) for row in session.scalars(query)]


def _attempt(row: PartAttemptRow) -> PartAttempt:
    return PartAttempt(
        part=row.part,
        box=row.box,
        gpus=row.gpus,
        queued_at=row.queued_at,
        claimed_at=row.claimed_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        gpu_hours=None if row.gpu_seconds is None else row.gpu_seconds / _HOUR_S,
        mean_utilisation=row.mean_utilisation,
        peak_memory=row.peak_memory,
        energy_j=row.energy_j,
    )
