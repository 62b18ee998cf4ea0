"""A model's scores one after the other: each against the one before, and where comparing breaks. Pure.

A point is tested against the last one before it that nothing speaks against; where documents, prompts, settings,
judge or lmms-eval version differ there is a break, and no test. All tests of a trend are corrected together (Holm).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_lmms.comparison import TaskDifference, Verdict, corrected, difference_of
from mlflow_lmms.score import REPORTED, Score, Vectors, flags_of

_VERSIONED = re.compile(r"(?P<name>.+) v(?P<version>\d{1,9})")


@dataclass(frozen=True)
class Entry:
    """One result and the revision of the suite that it belongs to."""

    score: Score
    suite_revision: int | None = None


@dataclass(frozen=True)
class Point:
    """One result in a trend.

    Attributes:
        flagged: warnings that speak against the result; it is shown, and neither tested nor tested against.
        against: run of the point that it is compared with, None for the first.
        change: this minus that one; its verdict is *not comparable* at a break, and `reason` says why.
        new_revision: whether the suite's revision is another than that one's; by itself this breaks nothing.
    """

    score: Score
    version: int | None
    suite_revision: int | None
    flagged: tuple[str, ...]
    against: str | None = None
    change: TaskDifference | None = None
    new_revision: bool = False

    @property
    def breaks(self) -> bool:
        """Whether it may not be compared with the point before."""
        return self.change is not None and self.change.verdict is Verdict.NOT_COMPARABLE


@dataclass(frozen=True)
class TaskTrend:
    """One task's points, oldest first."""

    task: str
    points: tuple[Point, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        newest = self.points[-1].score
        return {
            "task": self.task,
            "metric": newest.metric,
            "filter": newest.filter,
            "higher_is_better": newest.higher_is_better,
            "points": [_as_json(point) for point in self.points],
            "regressions": [p.score.run_id for p in self.points if p.change and p.change.verdict is Verdict.WORSE],
            "breaks": [point.score.run_id for point in self.points if point.breaks],
        }


def family(model: str) -> tuple[str, int | None]:
    """The registered model's name and the version of a model as boards show it; the whole and None without one."""
    found = _VERSIONED.fullmatch(model)
    return (found["name"], int(found["version"])) if found else (model, None)


def latest_of_versions(entries: Iterable[Entry]) -> list[Entry]:
    """The latest result of each version and task, by version; results without a version come first, by time."""
    latest: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.score.recorded_at):
        latest[entry.score.model, entry.score.task] = entry
    return sorted(latest.values(), key=lambda entry: (family(entry.score.model)[1] or 0, entry.score.recorded_at))


def make_trends(entries: Iterable[Entry], vectors: Vectors) -> tuple[TaskTrend, ...]:
    """Trends by task.

    Args:
        entries: in the order of the trend; published scores are left out.
        vectors: per-sample scores of a result, None where there are none.
    """
    by_task: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.score.source != REPORTED:
            by_task[entry.score.task].append(entry)
    trends = [TaskTrend(task, _points(found, vectors)) for task, found in sorted(by_task.items())]
    return _corrected(trends)


def _points(entries: Sequence[Entry], vectors: Vectors) -> tuple[Point, ...]:
    points: list[Point] = []
    last: Entry | None = None
    for entry in entries:
        score, flagged = entry.score, flags_of(entry.score)
        point = Point(score, family(score.model)[1], entry.suite_revision, flagged)
        if last is not None and not flagged:
            change = difference_of(last.score, score, vectors)
            new = entry.suite_revision != last.suite_revision
            point = replace(point, against=last.score.run_id, change=change, new_revision=new)
        points.append(point)
        last = last if flagged else entry
    return tuple(points)


def _corrected(trends: Sequence[TaskTrend]) -> tuple[TaskTrend, ...]:
    changes = iter(corrected([p.change for trend in trends for p in trend.points if p.change is not None]))
    return tuple(
        replace(
            trend,
            points=tuple(p if p.change is None else replace(p, change=next(changes)) for p in trend.points),
        )
        for trend in trends
    )


def _as_json(point: Point) -> dict[str, Any]:
    told = ("run_id", "model", "suite", "value", "low", "high", "n", "partial", "recorded_at", "fingerprint")
    return {
        **{name: getattr(point.score, name) for name in told},
        "version": point.version,
        "suite_revision": point.suite_revision,
        "new_revision": point.new_revision,
        "flagged": list(point.flagged),
        "against": point.against,
        "breaks": point.breaks,
        "change": None if point.change is None else asdict(point.change),
    }
