"""One score, and what can be said of two: whether they may be compared, and by how much they differ. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.analysis.paired_difference import PairedDifference, paired_difference
from mlflow_lmms.comparability import compare_fingerprints
from mlflow_lmms.reading.result_warnings import WarningName, ranked
from mlflow_lmms.score_vectors import ScoreVector, align, shared_clusters

#: `Score.source` of numbers that somebody else published.
REPORTED = "reported"
#: Warnings of results that somebody corrected (`mlflow_lmms.corrections`): declared wrong, or given another value.
INVALIDATED, RESCORED, RESCORED_WITHOUT_INTERVAL = "invalidated", "rescored", "rescored_no_interval"


@dataclass(frozen=True)
class Score:
    """The primary metric of one task in one run; `low` and `high` are its 95 % interval where there is one.

    Attributes:
        source: who wrote the run: ``queue``, ``import``, ``client`` or ``reported``.
        reported_source: where a reported score was published.
        warnings: names of what may be wrong with the result (`mlflow_lmms.reading.result_warnings`).
        factor: what turns the mean of the samples' scores into `value`, 1 or 100; None where nothing does.
        scale_high: the largest value there can be, None where that is not known.
    """

    run_id: str
    experiment_id: str
    model: str
    suite: str
    task: str
    metric: str
    filter: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    higher_is_better: bool | None
    partial: bool
    attempt: int
    fingerprint: dict[str, Any]
    recorded_at: float
    source: str = "queue"
    reported_source: str | None = None
    warnings: tuple[str, ...] = ()
    factor: float | None = None
    scale_high: float | None = None


#: Per-sample scores behind a score, None where there are none.
Vectors = Callable[[Score], ScoreVector | None]


def flags_of(score: Score) -> tuple[str, ...]:
    """The warnings that speak against ranking the score; that it is partial is asked for by itself."""
    harmless = (WarningName.PARTIAL_RUN, RESCORED)
    return tuple(name for name in score.warnings if name not in harmless and not ranked(name))


def is_invalidated(score: Score) -> bool:
    """Whether somebody declared the result wrong: it is shown, and takes part in nothing."""
    return INVALIDATED in score.warnings


def is_rescored(score: Score) -> bool:
    """Whether somebody gave the result another value, which the scores of its samples do not explain."""
    return RESCORED in score.warnings or RESCORED_WITHOUT_INTERVAL in score.warnings


def incomparable(first: Score, second: Score) -> str | None:
    """Why two results of one task must not be compared, in words; None when they may be."""
    if is_invalidated(first) or is_invalidated(second):
        return "the result was invalidated" if is_invalidated(second) else "the other result was invalidated"
    if (first.metric, first.filter) != (second.metric, second.filter):
        return f"scored by {second.metric} ({second.filter}), the others by {first.metric} ({first.filter})"
    if first.factor is not None and second.factor is not None and first.factor != second.factor:
        return f"not comparable: its scores are {_unit(second.factor)}, the others {_unit(first.factor)}"
    found = compare_fingerprints(first.fingerprint, second.fingerprint)
    if found.comparable:
        return None
    words = "not comparable" if found.verdict == "not comparable" else "whether it is comparable cannot be told"
    return f"{words}: {'; '.join(found.reasons)}"


def _unit(factor: float) -> str:
    return "percentages" if factor == 100 else "fractions" if factor == 1 else f"{factor:g} times the samples' scores"


def compare(first: Score, second: Score, vectors: Vectors) -> PairedDifference | None:
    """Paired difference second − first over the documents of both, in the metric's own units.

    None without per-sample scores, and for published scores.
    """
    if REPORTED in (first.source, second.source):
        return None
    one, two = vectors(first), vectors(second)
    if one is None or two is None:
        return None
    at_one, at_two = aligned = align(one, two)
    found = paired_difference(one.values[at_one], two.values[at_two], shared_clusters(one, two, aligned))
    return found.times(first.factor or second.factor or 1.0)
