"""The weighted mean of the gains on several tasks, with an interval made of the tasks' own intervals. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot


@dataclass(frozen=True)
class TaskGain:
    """The gain on one task and its interval, in units that all tasks share.

    Attributes:
        documents: what tells the documents that it is over; tasks over the same ones err together.
    """

    gain: float
    low: float
    high: float
    weight: float = 1.0
    documents: str | None = None


@dataclass(frozen=True)
class WeightedGain:
    """The mean and its interval, at the level of the tasks' intervals."""

    gain: float
    low: float
    high: float


def weighted_gain(tasks: Sequence[TaskGain]) -> WeightedGain:
    """The weighted mean of gains on independent tasks; those over the same documents are taken as fully dependent.

    Args:
        tasks: at least one, with positive weights.

    The distances from each gain to its two bounds stand for its error on that side, and add up as errors do: Zou and
    Donner (2008), "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27. Unlike a sum of variances it keeps what the tasks' intervals know of few and of equal scores.
    """
    total = sum(task.weight for task in tasks)
    if not tasks or total <= 0:
        raise ValueError("expected at least one task with a positive weight")
    gain = sum(task.weight * task.gain for task in tasks) / total
    down, up = defaultdict[object, float](float), defaultdict[object, float](float)
    for at, task in enumerate(tasks):
        shared = at if task.documents is None else task.documents
        down[shared] += task.weight * (task.gain - task.low)
        up[shared] += task.weight * (task.high - task.gain)
    return WeightedGain(gain, gain - hypot(*down.values()) / total, gain + hypot(*up.values()) / total)
