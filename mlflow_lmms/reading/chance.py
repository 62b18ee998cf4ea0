"""What guessing gives on questions with options, and what picking the largest or the smallest likelihood gives.

Pure. Owns the reading of options and likelihoods, and the exact test against chance.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(\S[^\n]*)$", re.MULTILINE)
_PROMPT_READ = 20_000
_PAIR_TEXT = re.compile(r"^[(\[]['\"]?(-?[\d.e+-]+|-?inf)['\"]?, ?['\"]?(?:True|False)['\"]?[)\]]$")
_MOST_OPTIONS = 26


@dataclass
class ChanceFacts:
    """Over the documents whose options are known: how many, and how many right answers guessing expects.

    `picks` of them have likelihoods and a known answer; `largest` and `smallest` count where that pick is right.
    """

    documents: int = 0
    expected: float = 0.0
    picks: int = 0
    largest: int = 0
    smallest: int = 0

    def add(self, options: int, values: Sequence[float] | None, answer: int | None) -> None:
        """Take one document in."""
        self.documents += 1
        self.expected += 1 / options
        if values is not None and answer is not None and answer < len(values):
            self.picks += 1
            self.largest += values.index(max(values)) == answer
            self.smallest += values.index(min(values)) == answer


def likelihoods(responses: Any) -> list[float] | None:
    """Read one likelihood per option out of [value, greedy] pairs, nested or as text; None when it is none."""
    if not isinstance(responses, list | tuple) or len(responses) < 2 or len(responses) > _MOST_OPTIONS:
        return None
    values = [_likelihood(response) for response in responses]
    return None if None in values else [value for value in values if value is not None]


def _likelihood(response: Any) -> float | None:
    while isinstance(response, list | tuple) and len(response) == 1:
        response = response[0]
    if isinstance(response, str):
        pair = _PAIR_TEXT.match(response.strip())
        return _number(pair[1]) if pair else None
    if isinstance(response, list | tuple) and len(response) == 2 and str(response[1]) in ("True", "False"):
        return _number(response[0])
    return None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def answer_index(target: Any) -> int | None:
    """Return the place of the right option: an index from 0, or a letter."""
    if isinstance(target, int) and not isinstance(target, bool):
        return target if target >= 0 else None
    text = target.strip() if isinstance(target, str) else ""
    if text.isdecimal() and len(text) <= 2:
        return int(text)
    return ord(text.upper()) - ord("A") if len(text) == 1 and text.isascii() and text.isalpha() else None


def prompt_options(text: str, target: Any) -> int | None:
    """Count the lettered options that end a prompt, where the target is exactly one of them."""
    options: list[str] = []
    for letter, words in _OPTION.findall(text[-_PROMPT_READ:]):
        if letter == "A":
            options = []
        if ord(letter) - ord("A") == len(options):
            options.append(words.strip())
    answer = target.strip().strip("().").strip() if isinstance(target, str) else ""
    lettered = len(answer) == 1 and 0 <= ord(answer.upper()) - ord("A") < len(options)
    return len(options) if len(options) > 1 and (lettered or answer in options) else None


def stated_options(*places: Any) -> int | None:
    """Count the options that a document or a scoring result lists, as a list or as the text of one."""
    for place in places:
        if isinstance(place, str) and place.startswith("[") and len(place) <= _PROMPT_READ:
            try:
                place = ast.literal_eval(place)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
        if isinstance(place, list | tuple) and 2 <= len(place) <= _MOST_OPTIONS:
            return len(place)
    return None


def at_most_by_chance(right: int, n: int, share: float) -> float:
    """Return the probability of at most `right` right answers of `n`, each with probability `share` (exact)."""
    if right >= n or share <= 0.0:
        return 1.0
    if share >= 1.0:
        return 0.0
    log_share, log_other = math.log(share), math.log1p(-share)
    terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_share + (n - k) * log_other
        for k in range(right + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))
