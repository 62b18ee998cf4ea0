"""Says in words what a board shows: who beats whom, and where it cannot be told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from mlflow_lmms.analysis.holm import holm
from mlflow_lmms.board import Board, Cell
from mlflow_lmms.column_ranks import ALPHA
from mlflow_lmms.score import Vectors, compare

#: Of so many models, the first of the board, all pairs are put into words; of more nobody would read it.
MOST_MODELS = 8


def verdicts(board: Board, vectors: Vectors) -> list[str]:
    """One sentence for each pair of the first models, the higher-placed one first; Holm over the tasks of both."""
    return [
        sentence
        for first, second in combinations(board.rows[:MOST_MODELS], 2)
        if (sentence := _sentence(first.model, second.model, _differences(first.cells, second.cells, vectors)))
    ]


def _differences(
    first: Mapping[str, Cell], second: Mapping[str, Cell], vectors: Vectors
) -> dict[str, tuple[float, float]]:
    """Task → (gain of the first model, positive is better; Holm-adjusted p-value)."""
    gains: dict[str, float] = {}
    p_values: dict[str, float] = {}
    for task in sorted(first.keys() & second.keys()):
        one, two = first[task], second[task]
        if one.rank is None or two.rank is None:
            continue
        difference = compare(two.score, one.score, vectors)
        if difference is not None and difference.n:
            gains[task] = difference.difference if one.score.higher_is_better else -difference.difference
            p_values[task] = difference.p_value
    return dict(zip(gains, zip(gains.values(), holm(list(p_values.values())), strict=True), strict=True))


def _sentence(first: str, second: str, found: dict[str, tuple[float, float]]) -> str | None:
    if not found:
        return None
    won = [task for task, (gain, p) in found.items() if p < ALPHA and gain > 0]
    lost = [task for task, (gain, p) in found.items() if p < ALPHA and gain < 0]
    tied = [task for task in found if task not in won and task not in lost]
    total = len(found)
    parts = []
    if won:
        parts.append(f"{first} beats {second} on {len(won)} of {total} task{'s' if total > 1 else ''}")
    if lost:
        parts.append(f"{second} beats {first} on {', '.join(lost)}")
    if tied:
        who = "they tie" if parts else f"{first} and {second} tie"
        parts.append(f"{who} on {'all tasks' if len(tied) == total > 1 else ', '.join(tied)}")
    return "; ".join(parts)
