"""How steady a model's repeated answers to one question are.

Pure. Owns four numbers over k scores per document, as lmms-eval defines them in `api/metrics.py` (its own code never
reaches them for ordinary tasks): with s[i][j] the score of answer j to document i,

- EA, expected accuracy: the mean of all s[i][j];
- CA, consensus accuracy: the share of documents with more than k/2 right answers (0/1 scores only);
- IV, internal variance: the mean over documents of the sample variance of s[i] (divisor k − 1);
- CR, consistency rate: the share of documents whose k scores are all equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mlflow_lmms.reading.score_sums import ScoreSums


class Stability(NamedTuple):
    """The four numbers; None where one is undefined, and `note` says why."""

    k: int
    EA: float | None
    CA: float | None
    IV: float | None
    CR: float | None
    note: str | None


def stability(scores: Iterable[Sequence[float | None]]) -> Stability | None:
    """Compute the numbers over documents with at least two scores; None when there is no such document."""
    every, variances, agreed, consistent = ScoreSums(), ScoreSums(), ScoreSums(), ScoreSums()
    sizes: set[int] = set()
    for answers in scores:
        own = ScoreSums.of(answers)
        if own.n < 2:
            continue
        sizes.add(own.n)
        every = every.merged(own)
        variances.add(own.squares / (own.n - 1))
        agreed.add(float(own.total > own.n / 2))
        consistent.add(float(own.least == own.most))
    if not sizes:
        return None
    notes = []
    if not every.binary:
        notes.append("no consensus accuracy: scores are not only 0 and 1")
    if len(sizes) > 1:
        notes.append(f"documents have between {min(sizes)} and {max(sizes)} scores")
    consensus = agreed.mean if every.binary else None
    return Stability(max(sizes), every.mean, consensus, variances.mean, consistent.mean, "; ".join(notes) or None)
