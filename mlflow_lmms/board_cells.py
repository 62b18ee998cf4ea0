"""The table that boards are read from: what each model's results on a task are, kept as the score index changes."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy.orm import Session


class Touched(NamedTuple):
    """A place on boards whose scores changed."""

    experiment_id: str
    model: str
    task: str


class BoardCells:
    """Keeps `lmms_board_cells`."""

    def follow(self, session: Session, touched: Collection[Touched]) -> None:
        """Choose anew, in the caller's transaction, what these places show."""
