"""Which columns of a task cut its documents into groups worth comparing.

Pure. Owns the rule for a useful column and the source of each; the groups' sums are kept in `slice_sums`.
Statistics on the groups are made elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

from mlflow_lmms.reading.sample_scores import ANSWER_FIELDS, PREDICTION_FIELDS, SCORE_FIELDS
from mlflow_lmms.reading.score_sums import ScoreSums

FEWEST_GROUPS, MOST_GROUPS = 2, 50
MEDIAN_GROUP = 5
MOST_DECLARED_GROUPS = 1000
OUTCOMES = frozenset(("response_length", "empty_response"))
_ANSWERS = frozenset((*ANSWER_FIELDS, "answers", "targets", "solution"))
# What a model said, or what a judge made of it, is no property of a document.
_OF_THE_MODEL = re.compile(
    r"(?:^|_)(?:pred|preds|predicted|prediction|predictions|parsed|response|responses|resp|resps|output|outputs|judge|"
    r"judgement|judgment|gpt|extracted|extraction|generated)(?:$|_)|^model_(?:answer|output|response)$",
    re.IGNORECASE,
)
_TEXT = 200
_SCALARS = (str, bool, int, float)

Column = Sequence[str | None]
Source = Literal["declared", "scoring", "document", "feature"]


class Dimension(NamedTuple):
    """A kept column; `outcome`: its values depend on the model's answers, so they do not cut two models alike."""

    name: str
    source: Source
    outcome: bool


def dimension(name: str, source: Source) -> Dimension:
    """Describe a dimension."""
    return Dimension(name, source, name in OUTCOMES)


def may_be_dimension(name: str, source: Source) -> bool:
    """Whether a column's name speaks for it: no answer, no prediction, no score."""
    if source in ("declared", "feature"):
        return True
    if name.lower() in _ANSWERS or name.lower() in PREDICTION_FIELDS or _OF_THE_MODEL.search(name):
        return False
    return source != "scoring" or name.lower() not in SCORE_FIELDS


def scoring_columns(values: Iterable[Any]) -> dict[str, Any]:
    """Gather the scalar fields of one sample's metric values, those of the first metric first."""
    columns: dict[str, Any] = {}
    for value in values:
        if isinstance(value, Mapping):
            for name, item in value.items():
                if isinstance(item, _SCALARS):
                    columns.setdefault(str(name), item)
    return columns


def dimensions(columns: Mapping[str, Sequence[Any]], source: Source = "document") -> dict[str, list[str | None]]:
    """Keep the columns that are useful for slicing, with their values as text."""
    texts = {
        name: [dimension_value(value) for value in values]
        for name, values in columns.items()
        if may_be_dimension(name, source)
    }
    return {
        name: values
        for name, values in texts.items()
        if useful(Counter(value for value in values if value is not None), declared=source == "declared")
    }


def useful(sizes: Mapping[str, int], *, declared: bool = False) -> bool:
    """Whether groups of these sizes are worth comparing; declared ones need only be more than one, and bounded."""
    if declared:
        return FEWEST_GROUPS <= len(sizes) <= MOST_DECLARED_GROUPS
    return FEWEST_GROUPS <= len(sizes) <= MOST_GROUPS and median(sizes.values()) >= MEDIAN_GROUP


def dimension_value(value: Any) -> str | None:
    """Return a scalar as text; None for nothing, for what is no scalar, and for long texts."""
    if value is None or value == "" or not isinstance(value, _SCALARS):
        return None
    text = str(value)
    if not text.isascii():
        text = text.encode("utf-8", errors="replace").decode("utf-8")
    return text if len(text) <= _TEXT else None


def length_groups(lengths: Sequence[int]) -> list[str | None]:
    """Cut lengths at about their quartiles into groups named by their range."""
    bins: dict[int, tuple[int, int, int]] = {}
    for length in lengths:
        least, most, count = bins.get(length_bin(length), (length, length, 0))
        bins[length_bin(length)] = min(least, length), max(most, length), count + 1
    names = quartile_names(bins)
    return [names.get(length_bin(length)) for length in lengths]


def length_bin(length: int) -> int:
    """Return the bin of a length: itself below 64, else one of 32 for each power of two, so that bins stay few."""
    if length < 64:
        return length
    shift = length.bit_length() - 6
    return length >> shift << shift


def quartile_names(bins: Mapping[int, tuple[int, int, int]]) -> dict[int, str]:
    """Join bins (least, most, count) at about the quartiles; name each bin's group by its range."""
    ordered = sorted(bins)
    if len(ordered) < FEWEST_GROUPS:
        return {}
    total = sum(count for _, _, count in bins.values())
    before, groups = 0, {}
    for edge in ordered:
        groups[edge] = before * 4 // total
        before += bins[edge][2]
    names = {}
    for group in set(groups.values()):
        own = [bins[edge] for edge in ordered if groups[edge] == group]
        names[group] = _range_name(own[0][0], own[-1][1])
    return {edge: names[group] for edge, group in groups.items()}


def slice_scores(column: Column, scores: Sequence[float | None]) -> list[dict[str, Any]]:
    """Return value, n, mean score and standard deviation of each group that has a score, by value."""
    groups: dict[str, ScoreSums] = {}
    for value, score in zip(column, scores, strict=True):
        if value is not None and score is not None:
            groups.setdefault(value, ScoreSums()).add(score)
    return [{"value": value, "n": own.n, "score": own.mean, "sd": own.sd} for value, own in sorted(groups.items())]


def _range_name(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"
