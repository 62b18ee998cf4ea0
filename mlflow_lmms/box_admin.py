"""What admins say of boxes: pause, drain, resume, forget. The table is the truth; Redis shows it to the boxes.

A paused box takes no new work and finishes what runs. A drained one gives back what runs too: it goes on elsewhere
from its checkpoint, and no retry is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotFoundError
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.sql.schema import BoxRow

_LONGEST_REASON = 500


@dataclass(frozen=True)
class BoxWord:
    """An admin's word on a box: `paused` or `drained`, why, who said so and when (unix seconds)."""

    box: str
    state: str
    reason: str
    changed_by: str | None
    changed_at: float


class BoxAdmin:
    """Keeps the admins' words on boxes and shows them to the fleet."""

    def __init__(
        self, engine: Engine, view: FleetView, orders: FleetOrders, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._view = view
        self._orders = orders
        self._now = clock

    def states(self) -> dict[str, BoxWord]:
        """The words that hold, by box; a box that is not among them is open."""
        with Session(self._engine) as session:
            rows = session.scalars(select(BoxRow)).all()
        return {row.box: BoxWord(row.box, row.state, row.reason, row.changed_by, row.changed_at) for row in rows}

    def pause(self, box: str, by: str | None = None, reason: str = "") -> None:
        """Let a box take no new work; what runs there finishes.

        Raises:
            NotFoundError: no such box was seen in the last 30 days.
            UnavailableError: the queue server does not answer; nothing was changed.
        """
        self._say(box, "paused", by, reason)

    def drain(self, box: str, by: str | None = None, reason: str = "") -> None:
        """Let a box take no new work and give back what runs there. Raises like `pause`."""
        self._say(box, "drained", by, reason)

    def resume(self, box: str, by: str | None = None, reason: str = "") -> None:
        """Let a box take work again; one that is open stays so. Raises like `pause`."""
        self._check(box)
        with Session(self._engine) as session, session.begin():
            session.execute(delete(BoxRow).where(BoxRow.box == box))
        self.show()

    def forget(self, box: str, by: str | None = None, reason: str = "") -> None:
        """Drop a box that is gone for good from the fleet, with what was said of it.

        Raises:
            NotFoundError: no such box was seen in the last 30 days.
            ConflictError: the box is connected.
        """
        self._check(box)
        if any(report.box == box for report in self._view.boxes()):
            raise ConflictError(f"box {box} is connected: stop its worker first, or drain it")
        with Session(self._engine) as session, session.begin():
            session.execute(delete(BoxRow).where(BoxRow.box == box))
        self._orders.forget(box)
        self.show()

    def show(self) -> None:
        """Let the boxes know; the server's leader repeats it, in case the queue server has forgotten."""
        self._orders.show_states({box: word.state for box, word in self.states().items()})

    def _say(self, box: str, state: str, by: str | None, reason: str) -> None:
        self._check(box)
        if len(reason) > _LONGEST_REASON:
            raise InvalidRequestError(f"a reason has at most {_LONGEST_REASON} characters, got {len(reason)}")
        row = BoxRow(box=box, state=state, reason=reason, changed_by=by, changed_at=self._now())
        with Session(self._engine) as session, session.begin():
            session.merge(row)
        self.show()

    def _check(self, box: str) -> None:
        there = {report.box for report in self._view.boxes()} | set(self._view.known()) | set(self.states())
        if box not in there:
            raise NotFoundError(f"no box is called {box!r}; there are {', '.join(sorted(there)) or 'none'}")
