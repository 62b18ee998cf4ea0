"""Filters that pages and API share: an experiment, a state."""

from __future__ import annotations

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.states import State


def narrowed(readable: frozenset[str] | None, experiment: str) -> frozenset[str] | None:
    """The experiments that a filter leaves of the readable ones; None means all, an empty filter all of them."""
    if not experiment:
        return readable
    wanted = frozenset({experiment})
    return wanted if readable is None else wanted & readable


def parse_state(text: str) -> State:
    """The state of this name.

    Raises:
        InvalidRequestError: there is none.
    """
    try:
        return State(text)
    except ValueError:
        raise InvalidRequestError(f"state: expected one of {', '.join(State)}, got {text[:80]!r}") from None
