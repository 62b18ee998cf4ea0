"""Which of a model's results on a task a board shows: the latest or the best. Pure.

A whole result goes before one over a part of the documents, and an invalidated one stands only where there is no
other. The best is looked for among whole, sound results that are made in the same way as the latest: the easiest
way to make a result must not win. Where the latest one's score moved and its answers did not, how results are scored
has changed, and none of them is the best.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from mlflow_lmms.reading.result_warnings import WarningName
from mlflow_lmms.score import REPORTED, Score, flags_of, incomparable, is_invalidated


class Kept(NamedTuple):
    """A result that some board may show; see `mlflow_lmms.sql.schema_boards.BoardCellRow`."""

    score: Score
    latest: bool
    best: bool


def kind_of(score: Score) -> str:
    """The same text for results of a task which are made in the same way, and stand or fall together."""
    told = [score.metric, score.filter, score.factor, is_invalidated(score), score.fingerprint]
    return json.dumps(told, sort_keys=True)


def latest(scores: Iterable[Score]) -> Score:
    """The result that stands for a model on a task, of those that may."""
    return max(scores, key=_order)


def best(scores: Sequence[Score]) -> Score:
    """The best result that may be compared with the latest one; the latest where none can be told to be that."""
    newest = latest(scores)
    rivals = [score for score in scores if _may_be_best(score) and incomparable(newest, score) is None]
    if newest.higher_is_better is None or WarningName.SCORE_MOVED in newest.warnings or not rivals:
        return newest
    return max(rivals, key=lambda score: (_goodness(score, newest.higher_is_better), _order(score)))


def kept(scores: Sequence[Score]) -> list[Kept]:
    """The results of one model on one task that boards need, whatever they are narrowed to."""
    newest = {found.run_id for found in _newest_of_each(scores)}
    finest = {found.run_id for found in _best_of_each(scores)}
    return [
        Kept(score, score.run_id in newest, score.run_id in finest)
        for score in scores
        if score.run_id in newest or score.run_id in finest
    ]


def newest_reported(scores: Iterable[Score]) -> list[Score]:
    """Published scores: of one model, task, source and metric the newest."""
    found: dict[Hashable, Score] = {}
    for score in sorted(scores, key=_order):
        found[score.model, score.task, score.metric, score.filter, score.reported_source or ""] = score
    return [found[key] for key in sorted(found, key=str)]


def _newest_of_each(scores: Iterable[Score]) -> list[Score]:
    """By suite, of whole and partial results each; published ones by source."""
    groups: dict[tuple[str, bool], list[Score]] = defaultdict(list)
    reported: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        if score.source == REPORTED:
            reported[score.suite].append(score)
        else:
            groups[score.suite, score.partial].append(score)
    published = [score for group in reported.values() for score in newest_reported(group)]
    return [latest(group) for group in groups.values()] + published


def _best_of_each(scores: Iterable[Score]) -> list[Score]:
    """By suite and by how they are made."""
    groups: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.source != REPORTED and _may_be_best(score):
            groups[score.suite, kind_of(score)].append(score)
    return [
        max(group, key=lambda score: (_goodness(score, latest(group).higher_is_better), _order(score)))
        for group in groups.values()
    ]


def _may_be_best(score: Score) -> bool:
    return not score.partial and not flags_of(score) and score.higher_is_better is not None


def _goodness(score: Score, higher_is_better: bool | None) -> float:
    return score.value if higher_is_better else -score.value


def _order(score: Score) -> tuple[bool, bool, float, str]:
    return not is_invalidated(score), not score.partial, score.recorded_at, score.run_id
