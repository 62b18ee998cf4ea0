"""Scoring functions of the probe's tasks, found by lmms-eval through `!function`."""

from __future__ import annotations

from typing import Any


def starts_with_answer(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, object]]:
    """Score the first answer; the value is an object, as most tasks' are."""
    said = results[0].split()[0] if results[0] else ""
    return {"percent_right": {"score": float(said == doc["answer"]), "kind": doc["kind"]}}


def percent(values: list[dict[str, Any]]) -> float:
    """The share of right answers, as a percentage."""
    scores: list[float] = [value["score"] for value in values]
    return 100 * sum(scores) / len(scores)
