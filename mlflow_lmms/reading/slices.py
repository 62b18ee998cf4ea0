"""Which columns of a task cut its documents into groups worth comparing, and each group's score.

Pure. Owns the rule for a useful column; statistics on the groups are made elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from mlflow_lmms.reading.sample_scores import mean

_FEWEST_GROUPS, _MOST_GROUPS = 2, 50
_MEDIAN_GROUP = 5
# A document's own answer is a fair way to group; what a model said about it is not.
_NOT_DIMENSIONS = frozenset(
    ("pred", "prediction", "parsed_pred", "response", "output", "model_answer", "raw_output", "resps")
)
_ANSWERS = frozenset(("answer", "answers", "gt", "ground_truth", "target", "gold", "gt_answer"))

Column = Sequence[str | None]


def dimensions(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str | None]]:
    """Keep the columns that are useful for slicing, with their values as text."""
    texts = {
        name: [_text(value) for value in values]
        for name, values in columns.items()
        if name.lower() not in _NOT_DIMENSIONS | _ANSWERS
    }
    return {name: values for name, values in texts.items() if _is_useful(values)}


def length_groups(lengths: Sequence[int]) -> list[str | None]:
    """Cut lengths at their quartiles into groups named by their range."""
    ordered = sorted(lengths)
    if len(set(ordered)) < _FEWEST_GROUPS:
        return [None] * len(lengths)
    bounds = sorted({ordered[len(ordered) * quarter // 4] for quarter in (1, 2, 3)})
    groups = [sum(length >= bound for bound in bounds) for length in lengths]
    members: dict[int, list[int]] = {}
    for length, group in zip(lengths, groups, strict=True):
        members.setdefault(group, []).append(length)
    names = {group: _range_name(min(own), max(own)) for group, own in members.items()}
    return [names[group] for group in groups]


def slice_scores(column: Column, scores: Sequence[float | None]) -> list[dict[str, Any]]:
    """Return value, n and mean score of each group that has a score, by value."""
    groups: dict[str, list[float]] = {}
    for value, score in zip(column, scores, strict=True):
        if value is not None and score is not None:
            groups.setdefault(value, []).append(score)
    return [{"value": value, "n": len(own), "score": mean(own)} for value, own in sorted(groups.items())]


def _range_name(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"


def _is_useful(values: Column) -> bool:
    sizes = Counter(value for value in values if value is not None)
    return _FEWEST_GROUPS <= len(sizes) <= _MOST_GROUPS and median(sizes.values()) >= _MEDIAN_GROUP


def _text(value: Any) -> str | None:
    if value is None or value == "" or not isinstance(value, str | bool | int | float):
        return None
    return str(value)
