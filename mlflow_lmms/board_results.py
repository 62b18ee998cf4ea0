"""The results that stand on a board, one of each model on each task, read again only where a column has changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

from mlflow_lmms.board_choice import Kept, best, latest
from mlflow_lmms.board_narrowing import Narrowing
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.board_rows import BoardRows, Place
from mlflow_lmms.recently_used import RecentlyUsed
from mlflow_lmms.score import REPORTED, Score

_COLUMNS_KEPT = 1_000

#: The columns of one task, in all experiments that are looked at, with their revisions.
Revision = frozenset[tuple[Place, str]]


@dataclass(frozen=True)
class TaskResults:
    """What a board shows of one task.

    Attributes:
        key: another one whenever anything here may be another.
        scores: one of each model; `reported` are those that somebody else published.
        partial: how many results are left out because they are over a part of the documents.
        unsized: the models that are left out because their size is not known.
    """

    task: str
    key: Hashable
    scores: tuple[Score, ...]
    reported: tuple[Score, ...]
    partial: int = 0
    unsized: frozenset[str] = frozenset()


class BoardResults:
    """Chooses results; keeps what it has read and chosen."""

    def __init__(self, rows: BoardRows) -> None:
        self._rows = rows
        self._cells: RecentlyUsed[tuple[Place, bool], tuple[str, list[Kept]]] = RecentlyUsed(_COLUMNS_KEPT)
        self._chosen: RecentlyUsed[Hashable, TaskResults] = RecentlyUsed(_COLUMNS_KEPT)

    def results(self, query: BoardQuery, narrowing: Narrowing, revisions: Mapping[Place, str]) -> list[TaskResults]:
        """The results of all tasks that have columns."""
        by_task: dict[str, set[tuple[Place, str]]] = defaultdict(set)
        for place, revision in revisions.items():
            by_task[place.task].add((place, revision))
        keys = {task: self._key(query, narrowing, frozenset(found)) for task, found in by_task.items()}
        kept = {task: self._chosen.get(key) for task, key in keys.items()}
        stale = {task: frozenset(by_task[task]) for task, found in kept.items() if found is None}
        scores = self._history(query, stale) if query.by_history else self._current(query, stale)
        fresh = {
            task: self._chosen.put(keys[task], _chosen(task, keys[task], scores.get(task, ()), query, narrowing))
            for task in stale
        }
        return [found if (found := kept[task]) is not None else fresh[task] for task in sorted(by_task)]

    def _key(self, query: BoardQuery, narrowing: Narrowing, revision: Revision) -> Hashable:
        asked = (query.suite, query.result, query.partial, query.tags, query.since, query.until)
        return revision, asked, (narrowing.models, narrowing.sized, narrowing.known, narrowing.aliased)

    def _current(self, query: BoardQuery, stale: Mapping[str, Revision]) -> dict[str, list[Score]]:
        wanted = dict(pair for revision in stale.values() for pair in revision)
        best = query.result == "best"
        kept = {place: self._cells.get((place, best)) for place in wanted}
        changed = [place for place, found in kept.items() if found is None or found[0] != wanted[place]]
        for place, cells in self._rows.cells(changed, best=best).items():
            kept[place] = self._cells.put((place, best), (wanted[place], cells))
        found: dict[str, list[Score]] = defaultdict(list)
        for place, told in kept.items():
            found[place.task] += [cell.score for cell in (told[1] if told else ()) if _asked(cell, query)]
        return found

    def _history(self, query: BoardQuery, stale: Mapping[str, Revision]) -> dict[str, list[Score]]:
        places: Collection[Place] = [place for revision in stale.values() for place, _ in revision]
        found = self._rows.history(query, places)
        return {task: [s for s in scores if query.suite in (None, s.suite)] for task, scores in found.items()}


def _asked(cell: Kept, query: BoardQuery) -> bool:
    return query.suite in (None, cell.score.suite) and (cell.latest or query.result == "best")


def _chosen(
    task: str, key: Hashable, scores: Iterable[Score], query: BoardQuery, narrowing: Narrowing
) -> TaskResults:
    by_model: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        by_model[score.model].append(score)
    unsized = frozenset(model for model in by_model if narrowing.of_unknown_size(model))
    partial, shown, reported = 0, list[Score](), list[Score]()
    choose = best if query.result == "best" else latest
    for model, found in by_model.items():
        if not narrowing.takes(model):
            continue
        ours = [score for score in found if score.source != REPORTED]
        reported += [score for score in found if score.source == REPORTED]
        taken = ours if query.partial else [score for score in ours if not score.partial]
        partial += len(ours) - len(taken)
        if taken:
            shown.append(taken[0] if len(taken) == 1 else choose(taken))
    return TaskResults(task, key, tuple(shown), tuple(reported), partial, unsized)
