"""Quotas: how many GPUs a user may have at a time, and how many GPU-hours in the quota's period.

Kept in a table, so that an admin changes them while the server runs. The planner applies them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.planner.fleet import Quota, Quotas
from mlflow_lmms.sql.schema import QuotaRow

#: The row of everybody who has none of his own.
_EVERYBODY = ""


class QuotaStore:
    """Reads and writes the quotas; a `user` of None means everybody without a quota of his own."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._now = clock

    def all(self) -> Quotas:
        """The quotas of all."""
        with Session(self._engine) as session:
            found = {row.user_name: Quota(row.gpus, row.gpu_hours) for row in session.scalars(select(QuotaRow))}
        return Quotas(found.pop(_EVERYBODY, Quota()), found)

    def put(self, user: str | None, quota: Quota, by: str | None = None) -> None:
        """Set a quota; a limit of None is none.

        Raises:
            InvalidRequestError: a limit below zero.
        """
        for name, limit in (("gpus", quota.gpus), ("gpu_hours", quota.gpu_hours)):
            if limit is not None and not 0 <= limit < 1e9:
                raise InvalidRequestError(
                    f"a quota's {name} is a number from 0 on, or none for no limit; got {limit}"
                )
        row = QuotaRow(
            user_name=user or _EVERYBODY,
            gpus=quota.gpus,
            gpu_hours=quota.gpu_hours,
            changed_by=by,
            changed_at=self._now(),
        )
        with Session(self._engine) as session, session.begin():
            session.merge(row)

    def remove(self, user: str | None) -> None:
        """Take a quota away: the user has that of everybody from now on, everybody none.

        Raises:
            NotFoundError: the user has no quota of his own.
        """
        with Session(self._engine) as session, session.begin():
            gone = session.execute(delete(QuotaRow).where(QuotaRow.user_name == (user or _EVERYBODY)))
        if not gone.rowcount:  # type: ignore[attr-defined]
            raise NotFoundError(f"{user or 'everybody'} has no quota of its own")
