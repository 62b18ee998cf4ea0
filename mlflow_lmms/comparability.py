"""Whether two results of one task may be compared, and in plain words what differs. Pure.

A result's fingerprint says what it was made of (`worker.runner.fingerprint` writes it, the importer too). Nothing is
guessed: what one result says and the other does not leaves the question open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Parts beside the documents that must agree, and what they are called.
_PARTS = {
    "task_config": "the task's prompts or settings",
    "generation": "the generation settings",
    "num_fewshot": "the number of examples in the prompt",
    "filter": "the filter of the answers",
    "lmms_eval": "the version of lmms-eval",
}
#: Parts that are hashes: their values tell a reader nothing.
_HASHES = frozenset({"task_config", "generation"})
#: Parts for which None is a value, and not a lack of one.
_NONE_IS_KNOWN = frozenset({"num_fewshot"})
#: Parts that older results do not tell, but which stand beside every score anyway.
_TOLD_ELSEWHERE = frozenset({"filter"})
_NAMED = 60


class Verdict(StrEnum):
    """What can be said of two results."""

    COMPARABLE = "comparable"
    NOT_COMPARABLE = "not comparable"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True)
class Comparability:
    """The verdict, and a sentence for each part that differs or is not known."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether a test or a ranking of the two means anything."""
        return self.verdict is Verdict.COMPARABLE


def compare_fingerprints(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparability:
    """Compare what two results of one task were made of."""
    found = [*_documents(first, second), *_parts(first, second), *_judge(first, second)]
    differing = tuple(reason for verdict, reason in found if verdict is Verdict.NOT_COMPARABLE)
    unknown = tuple(reason for verdict, reason in found if verdict is Verdict.UNKNOWN)
    if differing:
        return Comparability(Verdict.NOT_COMPARABLE, differing + unknown)
    return Comparability(Verdict.UNKNOWN if unknown else Verdict.COMPARABLE, unknown)


Finding = tuple[Verdict, str]


def _documents(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Finding]:
    """By their content where both know it, else by the weaker hash of id, question and target."""
    for part in ("dataset", "rows"):
        one, two = first.get(part), second.get(part)
        if one and two:
            if one != two:
                yield Verdict.NOT_COMPARABLE, f"the documents differ{_extent(first, second)}"
            return
    if not any(result.get(part) for result in (first, second) for part in ("dataset", "rows")):
        yield Verdict.UNKNOWN, "neither result tells which documents it is over"
    else:
        yield Verdict.UNKNOWN, "the two results do not tell in the same way which documents they are over"


def _extent(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    one, two = _which(first), _which(second)
    return "" if one == two else f": one result is over {one}, the other over {two}"


def _which(result: Mapping[str, Any]) -> str:
    limit, offset = result.get("limit"), result.get("offset") or 0
    which = "all documents" if limit is None else f"{limit} documents"
    return f"{which} from number {offset} on" if offset else which


def _parts(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Finding]:
    for part, words in _PARTS.items():
        known = [_knows(result, part) for result in (first, second)]
        if not all(known):
            if any(known) and part not in _TOLD_ELSEWHERE:
                yield Verdict.UNKNOWN, f"one of the two results does not tell {words}"
        elif first[part] != second[part]:
            values = "" if part in _HASHES else f" ({_short(first[part])} and {_short(second[part])})"
            yield Verdict.NOT_COMPARABLE, f"{words} differ{'' if words.endswith('settings') else 's'}{values}"


def _knows(result: Mapping[str, Any], part: str) -> bool:
    return part in result and (part in _NONE_IS_KNOWN or result[part] is not None)


def _judge(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Finding]:
    """A judge that is known not to be asked agrees with a result that says nothing of one."""
    one, two = first.get("judge"), second.get("judge")
    if one == two or not (one or two):
        return
    if "judge" in first and "judge" in second:
        yield Verdict.NOT_COMPARABLE, f"the judges differ ({_short(one)} and {_short(two)})"
    else:
        yield Verdict.UNKNOWN, "one of the two results does not tell which judge it asked"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= _NAMED else f"{text[:_NAMED]}…"
