"""One column of a board: which of its results are ranked, against what, and why others are not. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from mlflow_lmms.analysis.ranks import shares_beaten
from mlflow_lmms.board_choice import kind_of
from mlflow_lmms.column_ranks import Rank, ranks_from
from mlflow_lmms.column_tests import Tester
from mlflow_lmms.score import Score, flags_of, incomparable, is_invalidated


@dataclass(frozen=True)
class Column:
    """One task of the board."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool | None
    scale_high: float | None = None


@dataclass(frozen=True)
class Cell:
    """A score on the board. `place` is None where it is not ranked, and `note` says why.

    `flagged` names the warnings that keep it from being ranked, or would if nobody had asked for it.
    """

    score: Score
    place: Rank | None = None
    note: str | None = None
    flagged: tuple[str, ...] = ()

    @property
    def rank(self) -> int | None:
        """The rank that it shows, None where it is not ranked."""
        return self.place.rank if self.place else None

    @property
    def tied(self) -> bool:
        """Whether it shares its rank."""
        return self.place is not None and self.place.tied


@dataclass(frozen=True)
class RankedColumn:
    """A column with its cells by model. `shares`: of the other ranked models, the share that a ranked model beats."""

    column: Column
    cells: Mapping[str, Cell]
    shares: Mapping[str, float]


def rank_column(scores: Sequence[Score], tests: Tester, *, flagged: bool = False) -> RankedColumn:
    """Rank one result of each model on one task.

    Args:
        flagged: whether results are ranked whose warnings speak against it.
    """
    kinds = {score.model: kind_of(score) for score in scores}
    reference = _reference(scores, kinds)
    notes = _notes(reference, scores, kinds)
    flags = {score.model: flags_of(score) for score in scores}
    ordered_by = [
        score
        for score in scores
        if notes[score.model] is None and score.higher_is_better is not None and (flagged or not flags[score.model])
    ]
    higher_is_better = any(score.higher_is_better for score in ordered_by)
    places = ranks_from(ordered_by, tests(ordered_by), higher_is_better=higher_is_better) if ordered_by else {}
    cells = {
        score.model: Cell(score, places.get(score.model), notes[score.model], flags[score.model]) for score in scores
    }
    column = Column(
        reference.task, reference.metric, reference.filter, reference.higher_is_better, reference.scale_high
    )
    return RankedColumn(column, cells, _shares(places))


def _shares(places: Mapping[str, Rank]) -> dict[str, float]:
    found = shares_beaten(np.array([place.rank for place in places.values()], dtype=np.float64))
    return {model: share for model, share in zip(places, found.tolist(), strict=True) if share == share}


def _notes(reference: Score, scores: Sequence[Score], kinds: Mapping[str, str]) -> dict[str, str | None]:
    """By model, why its result cannot be compared with the reference."""
    examples = {kinds[score.model]: score for score in scores}
    words = {kind: incomparable(reference, score) for kind, score in examples.items()}
    notes = {model: words[kind] for model, kind in kinds.items()}
    if notes[reference.model] is not None and not is_invalidated(reference):
        notes[reference.model] = "it does not tell which documents it is over: nothing can be compared with it"
    return notes


def _reference(scores: Sequence[Score], kinds: Mapping[str, str]) -> Score:
    """The result that most others are comparable with; of several the newest.

    A sound one is preferred, so that flagged results do not decide what a column is about.
    """
    examples = {kinds[score.model]: score for score in scores}
    counts = Counter(kinds.values())

    @cache
    def company(kind: str) -> int:
        return sum(n for other, n in counts.items() if incomparable(examples[kind], examples[other]) is None)

    return max(scores, key=lambda score: (company(kinds[score.model]), not flags_of(score), score.recorded_at))
