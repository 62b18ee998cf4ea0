"""The form above a leaderboard: what it offers, and how a query fills it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.catalogue.category_table import CATEGORIES
from mlflow_lmms.catalogue.modality import MODALITIES

#: Arguments that the form has an element for; others are passed on.
_SHOWN = {
    "suite", "experiment", "modality", "category", "tag", "since", "until", "min_size", "max_size", "versions",
    "result", "overall", "partial", "flagged", "costs", "pin",
}  # fmt: skip
_ALWAYS_OPEN = {"suite", "experiment", "partial", "flagged"}
#: An element of the form holds one value; of more, the others are passed on.
_SEVERAL = {"experiment", "modality", "category", "tag", "pin"}


@dataclass(frozen=True)
class BoardForm:
    """What the form's elements hold. `more`: whether elements are in use that are folded away otherwise.

    `hidden` are arguments without an element, which the form must not lose.
    """

    hidden: list[tuple[str, str]]
    more: bool
    since: str
    until: str
    tag: str
    pin: str
    modality: str
    category: str
    modalities: tuple[str, ...] = MODALITIES
    categories: tuple[str, ...] = tuple(CATEGORIES)


def board_form(query: BoardQuery) -> BoardForm:
    """The form as this query fills it."""
    arguments = query.as_arguments()
    hidden = [(name, value) for name, values in arguments.items() if name not in _SHOWN for value in values]
    hidden += [(name, value) for name in sorted(_SEVERAL) for value in arguments.get(name, [])[1:]]
    return BoardForm(
        hidden=hidden,
        more=bool(arguments.keys() & (_SHOWN - _ALWAYS_OPEN)),
        since=_date(query.since),
        until=_date(query.until),
        tag=_first(query.tags),
        pin=_first(query.pinned),
        modality=_first(query.modalities),
        category=_first(query.categories),
    )


def _first(values: tuple[str, ...]) -> str:
    return values[0] if values else ""


def _date(moment: float | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
