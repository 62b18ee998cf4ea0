"""What changed in a period: each model's newest result on a task against its last one from before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_lmms.comparison import TaskDifference, Verdict, corrected, difference_of
from mlflow_lmms.model_trend import family
from mlflow_lmms.score import REPORTED, Score, Vectors, flags_of


@dataclass(frozen=True)
class Change:
    """A registered model on a task: its newest result of the period, and the last from before.

    `difference` is None where there was none before: the model, or the task, is new to it.
    """

    model: str
    task: str
    after: Score
    before: Score | None
    difference: TaskDifference | None

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.after.metric,
            "filter": self.after.filter,
            "higher_is_better": self.after.higher_is_better,
            "before": None if self.before is None else _result(self.before),
            "after": _result(self.after),
            "verdict": "new" if self.difference is None else self.difference.verdict,
            "difference": None if self.difference is None else asdict(self.difference),
        }


def changes_in(scores: Iterable[Score], since: float, until: float, vectors: Vectors) -> tuple[Change, ...]:
    """The changes of the period, corrected together (Holm): worse first, then better, new, and the rest.

    Args:
        scores: of the models in question, from before and in the period; published ones, partial ones and those
            that warnings speak against take no part.
        since, until: the period in unix seconds; `until` belongs to it.
    """
    before: dict[tuple[str, str], Score] = {}
    after: dict[tuple[str, str], Score] = {}
    for score in sorted(scores, key=lambda score: score.recorded_at):
        if score.source == REPORTED or score.partial or flags_of(score) or score.recorded_at > until:
            continue
        kept = after if score.recorded_at >= since else before
        kept[family(score.model)[0], score.task] = score
    found = [_difference(before.get(place), score, vectors) for place, score in after.items()]
    tested = iter(corrected([difference for difference in found if difference is not None]))
    changes = [
        Change(*place, score, before.get(place), None if difference is None else next(tested))
        for (place, score), difference in zip(after.items(), found, strict=True)
    ]
    return tuple(sorted(changes, key=_order))


def counts(changes: Sequence[Change]) -> dict[str, int]:
    """How many changes there are of each verdict, and of new results."""
    told = ["new" if change.difference is None else str(change.difference.verdict) for change in changes]
    return {verdict: told.count(verdict) for verdict in dict.fromkeys(told)}


def _difference(before: Score | None, after: Score, vectors: Vectors) -> TaskDifference | None:
    return None if before is None else difference_of(before, after, vectors)


def _order(change: Change) -> tuple[int, str, str]:
    first: tuple[Verdict | None, ...] = (Verdict.WORSE, Verdict.BETTER, None)
    verdict = None if change.difference is None else change.difference.verdict
    return first.index(verdict) if verdict in first else len(first), change.model, change.task


def _result(score: Score) -> dict[str, Any]:
    return {name: getattr(score, name) for name in ("run_id", "model", "value", "low", "high", "n", "recorded_at")}
