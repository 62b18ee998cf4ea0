"""Scoring functions of the probe's tasks, found by lmms-eval through `!function`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def starts_with_answer(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, object]]:
    """Score the first answer; the value is an object, as most tasks' are."""
    said = results[0].split()[0] if results[0] else ""
    return {"percent_right": {"score": float(said == doc["answer"]), "kind": doc["kind"]}}


def percent(values: list[dict[str, Any]]) -> float:
    """The share of right answers, as a percentage."""
    scores: list[float] = [value["score"] for value in values]
    return 100 * sum(scores) / len(scores)


def even_suffix(doc: dict[str, Any], results: list[str]) -> dict[str, object]:
    """Score by the drawn part of the first answer: right or wrong as chance has it."""
    return {"even": float(int(results[0][-1:] or "1", 16) % 2 == 0)}


def digit_errors(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, int]]:
    """Count wrong digits: a part of a rate that only all answers together have."""
    said, answer = results[0].rjust(len(doc["answer"]))[: len(doc["answer"])], doc["answer"]
    wrong = sum(one != other for one, other in zip(said, answer, strict=True))
    return {"digit_wer": {"wrong": wrong, "digits": len(answer)}}


def error_rate(values: list[dict[str, int]]) -> float:
    """The share of wrong digits among all digits, in percent."""
    return 100 * sum(value["wrong"] for value in values) / sum(value["digits"] for value in values)


_calls = 0


def error_rate_once(values: list[dict[str, int]]) -> float:
    """The same, but a second call never comes back."""
    global _calls
    _calls += 1
    while _calls > 1:
        time.sleep(1)
    return error_rate(values)


def error_rate_on_disk(values: list[dict[str, int]]) -> float:
    """The same, with a file beside it."""
    with Path("calls.txt").open("a", encoding="utf-8") as calls:
        calls.write("called\n")
    return error_rate(values)
