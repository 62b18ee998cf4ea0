"""Where an evaluation's results come from, in words. Pure."""

from __future__ import annotations

from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.leaderboard import REPORTED

_WORDS = {"import": "imported from output files", "client": "logged by a program", REPORTED: "published by others"}


def origin_words(evaluation: Evaluation) -> str:
    """Empty for what our own queue ran."""
    return "" if evaluation.queued_here else _WORDS.get(evaluation.source, evaluation.source)
