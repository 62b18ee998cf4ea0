"""Log-likelihoods of a document's options, out of the responses as they are stored. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

_GREEDY = {True: True, False: False, "True": True, "False": False}


@dataclass(frozen=True)
class OptionScore:
    """One option; `greedy`: it is what the model would have said by itself. `largest` among several."""

    number: int
    value: float
    greedy: bool
    largest: bool


def option_scores(responses: Sequence[str]) -> list[OptionScore]:
    """The options in their order; empty where a response is anything but a log-likelihood with its greedy mark."""
    pairs = [_pair(response) for response in responses]
    known = [pair for pair in pairs if pair is not None]
    if not known or len(known) < len(pairs):
        return []
    top = max(value for value, _ in known)
    return [
        OptionScore(number, value, greedy, largest=len(known) > 1 and value == top)
        for number, (value, greedy) in enumerate(known, start=1)
    ]


def expected_option(target: str, options: int) -> int | None:
    """The number of the expected option among several, where the target is a number: it counts from 0."""
    if options < 2 or not target.isascii() or not target.isdigit() or len(target) > 4 or int(target) >= options:
        return None
    return int(target) + 1


def _pair(response: str) -> tuple[float, bool] | None:
    try:
        found = json.loads(response)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) != 2 or not isinstance(found[1], bool | str):
        return None
    greedy = _GREEDY.get(found[1])
    value = _number(found[0])
    return None if greedy is None or value is None else (value, greedy)


def _number(found: object) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        value = float(found)
    except (ValueError, OverflowError):
        return None
    return value if isfinite(value) else None
