"""Scoring by a judge that fails on some documents, found by lmms-eval through `!function`."""

from __future__ import annotations

from typing import Any


def ask_judge(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score as the judge says; it answers nothing where a sum is below five."""
    judge_score = float(results[0] == doc["answer"]) if int(doc["answer"]) >= 5 else -1.0
    return {"judge_score": judge_score}
