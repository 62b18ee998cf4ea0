"""Tests of all pairs of results of one task, and a store of them: a test once made never changes.

The store knows neither boards nor their filters: whichever results it is asked about, it tests only those that it
has not tested yet.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mlflow_lmms.analysis.paired_difference import paired_difference
from mlflow_lmms.analysis.pairwise import pairwise
from mlflow_lmms.score import Score, Vectors
from mlflow_lmms.score_vectors import ScoreVector, align, shared_clusters

Matrix = NDArray[np.float64]

#: After so long it is looked again whether a result has scores of single documents.
_LOOK_AGAIN_S = 600.0
_TASKS_KEPT = 1_000
#: Of one task, before those that nobody asked about last are forgotten.
_RESULTS_KEPT = 4_000


@dataclass(frozen=True)
class PairTests:
    """p-values of all pairs, and which of them come from a paired test; symmetric, in the order of the results."""

    p_value: Matrix
    paired: NDArray[np.bool_]


#: What gives the tests of these results of one task.
Tester = Callable[[Sequence[Score]], PairTests]


def pair_tests(scores: Sequence[Score], vectors: Vectors) -> PairTests:
    """Test all pairs of results of one task; where two share no documents, intervals that do not meet decide."""
    known = [vectors(score) for score in scores]
    return _with_intervals(scores, _paired([vector for vector in known if vector is not None]), _present(known))


def _present(known: Sequence[ScoreVector | None]) -> list[int]:
    return [at for at, vector in enumerate(known) if vector is not None]


def _with_intervals(scores: Sequence[Score], found: Matrix, places: Sequence[int]) -> PairTests:
    """Put the paired tests (NaN: there is none) of the results at these places over what the intervals tell."""
    p_value = np.where(_apart(scores), 0.0, 1.0)
    paired = np.eye(len(scores), dtype=bool)
    if places:
        block = np.ix_(places, places)
        tested = np.isfinite(found)
        p_value[block] = np.where(tested, found, p_value[block])
        paired[block] |= tested
    np.fill_diagonal(p_value, 1.0)
    return PairTests(p_value, paired)


def _apart(scores: Sequence[Score]) -> NDArray[np.bool_]:
    """Without samples: whether the intervals do not meet, which is less than a test; without these, the values."""
    low = np.array([np.nan if score.low is None else score.low for score in scores])
    high = np.array([np.nan if score.high is None else score.high for score in scores])
    value = np.array([score.value for score in scores])
    above = low[:, np.newaxis] > high[np.newaxis, :]
    known = np.isfinite(low) & np.isfinite(high)
    both = known[:, np.newaxis] & known[np.newaxis, :]
    return np.where(both, above | above.T, value[:, np.newaxis] != value[np.newaxis, :])


def _paired(known: Sequence[ScoreVector], earlier: Matrix | None = None) -> Matrix:
    """p-values of the paired tests, NaN where two share no documents.

    Args:
        earlier: those of the first ones, which need no test any more.
    """
    done = 0 if earlier is None else len(earlier)
    p_value = np.full((len(known), len(known)), np.nan)
    if earlier is not None:
        p_value[:done, :done] = earlier
    together: dict[tuple[str, int, bool], list[int]] = defaultdict(list)
    for at, vector in enumerate(known):
        if vector.dataset is not None:
            together[vector.dataset, len(vector.values), vector.clusters is None].append(at)
    tested = np.zeros(p_value.shape, dtype=bool)
    tested[:done, :done] = True
    for members in together.values():
        if members[-1] >= done:
            block = np.ix_(members, members)
            _test_together(known, members, done, p_value)
            tested[block] = True
    for one, other in zip(*np.nonzero(np.triu(~tested, 1)), strict=True):
        p_value[one, other] = p_value[other, one] = _test(known[one], known[other])
    np.fill_diagonal(p_value, np.nan)
    return p_value


def _test_together(known: Sequence[ScoreVector], members: list[int], done: int, p_value: Matrix) -> None:
    """Results over the same rows: all at once by matrix products, or the new ones against each other one."""
    values, clusters = np.stack([known[at].values for at in members]), known[members[0]].clusters
    new = [place for place, at in enumerate(members) if at >= done]
    if len(new) * 4 > len(members) or not (_costly(values) or clusters is not None):
        found = pairwise(values, clusters)
        p_value[np.ix_(members, members)] = np.where(found.shared > 0, found.p_value, np.nan)
        return
    for place in new:
        for other in range(place):
            two = pairwise(values[[other, place]], clusters)
            p = two.p_value[0, 1] if two.shared[0, 1] else np.nan
            p_value[members[place], members[other]] = p_value[members[other], members[place]] = p


def _costly(values: Matrix) -> bool:
    """Whether `pairwise` tests each pair by itself: few documents with scores that are not right or wrong."""
    return values.shape[1] < 500 and not bool(np.isin(values[np.isfinite(values)], (0.0, 1.0)).all())


def _test(one: ScoreVector, two: ScoreVector) -> float:
    at_one, at_two = aligned = align(one, two)
    found = paired_difference(one.values[at_one], two.values[at_two], shared_clusters(one, two, aligned))
    return found.p_value if found.n else float("nan")


#: What tells whether a result is the one that was tested: a run that is rescored has another.
_Result = tuple[str, str, str, float, float, int, tuple[str, ...]]


@dataclass
class _Tested:
    """What is known of a task. `missing`: results without scores of single documents, and when that was seen."""

    scores: dict[_Result, Score] = field(default_factory=dict)
    p_value: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    missing: dict[_Result, float] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def keep(self, results: Sequence[_Result]) -> None:
        """Forget all but these, and put them in this order."""
        at = {result: place for place, result in enumerate(self.scores)}
        places = [at[result] for result in results]
        self.p_value = self.p_value[np.ix_(places, places)]
        self.scores = {result: self.scores[result] for result in results}


class KeptTests:
    """The tests of all tasks; `pair_tests` with a memory. Used by all threads of a server process.

    Args:
        vectors: asked again for results that were tested before, when a new one is tested against them.
    """

    def __init__(self, vectors: Vectors, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = vectors
        self._now = clock
        self._tasks: OrderedDict[str, _Tested] = OrderedDict()
        self._lock = Lock()

    def __call__(self, scores: Sequence[Score]) -> PairTests:
        """The tests of these results of one task."""
        if not scores:
            return PairTests(np.empty((0, 0)), np.empty((0, 0), dtype=bool))
        with self._lock:
            kept = self._tasks.setdefault(scores[0].task, _Tested())
            self._tasks.move_to_end(scores[0].task)
            while len(self._tasks) > _TASKS_KEPT:
                self._tasks.popitem(last=False)
        with kept.lock:
            return self._tests(kept, scores)

    def _tests(self, kept: _Tested, scores: Sequence[Score]) -> PairTests:
        asked = {_result(score): score for score in scores}
        self._learn(kept, asked)
        at = {result: place for place, result in enumerate(kept.scores)}
        places = [place for place, score in enumerate(scores) if _result(score) in at]
        chosen = [at[_result(scores[place])] for place in places]
        found = _with_intervals(scores, kept.p_value[np.ix_(chosen, chosen)], places)
        if len(kept.scores) > _RESULTS_KEPT:
            newest = list(kept.scores)[-_RESULTS_KEPT // 2 :]
            kept.keep(list(dict.fromkeys([*(result for result in asked if result in kept.scores), *newest])))
        return found

    def _learn(self, kept: _Tested, asked: Mapping[_Result, Score]) -> None:
        """Test the results that were not tested yet against each other and against all that were."""
        now = self._now()
        if len(kept.missing) > _RESULTS_KEPT:
            kept.missing.clear()
        new = {
            result: score
            for result, score in asked.items()
            if result not in kept.scores and now - kept.missing.get(result, -_LOOK_AGAIN_S) >= _LOOK_AGAIN_S
        }
        found = {result: vector for result, score in new.items() if (vector := self._read(score)) is not None}
        kept.missing |= dict.fromkeys(new.keys() - found.keys(), now)
        if not found:
            return
        earlier = {result: self._read(score) for result, score in kept.scores.items()}
        readable = {result: vector for result, vector in earlier.items() if vector is not None}
        kept.missing |= dict.fromkeys(earlier.keys() - readable.keys(), now)
        kept.keep(list(readable))
        kept.p_value = _paired([*readable.values(), *found.values()], kept.p_value)
        kept.scores |= {result: new[result] for result in found}
        for result in found:
            kept.missing.pop(result, None)


def _result(score: Score) -> _Result:
    return score.run_id, score.metric, score.filter, score.recorded_at, score.value, score.attempt, score.warnings
