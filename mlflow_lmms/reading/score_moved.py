"""Whether a score moved while the outputs did not, between two results of the same model, task and settings.

Pure. Which results are the same in that sense is for the caller to tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from mlflow_lmms.reading.result_warnings import ResultWarning, WarningName

_FEWEST_DOCUMENTS = 10
_NOTABLE_SHARE = 0.01  # of the scale: what a judge's own moods may do


class OutputComparison(NamedTuple):
    """Over documents in both results: how many, how many have the same answers, and examples of those scored anew."""

    documents: int
    equal: int
    rescored: int
    examples: tuple[str, ...] = ()


def compare_outputs(pairs: Iterable[tuple[str, str, str, float | None, float | None]]) -> OutputComparison:
    """Compare documents of two results, given as (document, answer, earlier answer, score, earlier score)."""
    documents = equal = rescored = 0
    examples: list[str] = []
    for document, answer, before, score, score_before in pairs:
        documents += 1
        if answer != before:
            continue
        equal += 1
        if score is not None and score_before is not None and not math.isclose(score, score_before, abs_tol=1e-9):
            rescored += 1
            if len(examples) < 3:
                examples.append(document)
    return OutputComparison(documents, equal, rescored, tuple(examples))


def score_moved(
    score: float,
    before: float,
    outputs: OutputComparison,
    *,
    high: float | None = None,
    earlier: str = "an earlier run",
) -> ResultWarning | None:
    """Return a warning when the score moved by more than the changed answers can explain.

    A changed answer moves a mean by at most `high` (the scale; the larger score where it is unknown), shared by all
    documents.
    """
    if outputs.documents < _FEWEST_DOCUMENTS:
        return None
    span = high or max(abs(score), abs(before))
    explained = (1 - outputs.equal / outputs.documents) * span
    if abs(score - before) <= max(explained, _NOTABLE_SHARE * span) + 1e-12:
        return None
    message = (
        f"The score is {score:.4g} and was {before:.4g} in {earlier}, but {outputs.equal} of {outputs.documents} "
        f"answers are the same: changed answers explain at most {explained:.3g}, and {outputs.rescored} equal "
        "answers have another score."
    )
    return ResultWarning(WarningName.SCORE_MOVED, message, outputs.equal, outputs.documents, tuple(outputs.examples))
