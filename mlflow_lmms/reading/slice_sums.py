"""The sums of each group of each dimension, kept row by row in bounded memory.

Pure. It holds all columns that may still be useful; a column with too many values is let go at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlflow_lmms.reading.score_sums import ScoreSums
from mlflow_lmms.reading.slices import (
    MOST_DECLARED_GROUPS,
    MOST_GROUPS,
    Dimension,
    Source,
    dimension,
    dimension_value,
    length_bin,
    may_be_dimension,
    quartile_names,
    useful,
)

_MOST_COLUMNS = 200
PROMPT_LENGTH = "prompt_length"
LENGTHS = (PROMPT_LENGTH, "response_length")


class SliceSum(NamedTuple):
    """One group: how many documents have the value, and the sums of those that have a score."""

    value: str
    documents: int
    scores: ScoreSums


class DimensionSlices(NamedTuple):
    """A useful dimension with its groups, by value, lengths by size."""

    dimension: Dimension
    slices: tuple[SliceSum, ...]


@dataclass(slots=True)
class _Group:
    documents: int = 0
    scores: dict[str, ScoreSums] = field(default_factory=dict)

    def add(self, numbers: Mapping[str, float]) -> None:
        self.documents += 1
        for name, number in numbers.items():
            sums = self.scores.get(name)
            if sums is None:
                sums = self.scores[name] = ScoreSums()
            sums.add(number)


@dataclass(slots=True)
class _Lengths:
    least: int
    most: int
    group: _Group = field(default_factory=_Group)


class SliceReader:
    """Takes rows one by one; `declared` names are kept by weaker rules, and said to be missing where they are."""

    def __init__(self, declared: Iterable[str] = ()) -> None:
        self._declared = dict.fromkeys(declared)
        self._columns: dict[tuple[Source, str], dict[str, _Group] | None] = {}
        self._lengths: dict[str, dict[int, _Lengths]] = {}

    def add(
        self,
        numbers: Mapping[str, float],
        *,
        scoring: Mapping[str, Any] | None = None,
        document: Mapping[str, Any] | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> None:
        """Take one row in: its possible scores by derivation (see `SampleScoreReader.add`) and its columns.

        Of the features, `prompt_length` and (of generated answers) `response_length` are numbers of characters.
        """
        seen: set[str] = set()
        for source, columns in self._sources(scoring or {}, document or {}, features or {}):
            for name, value in columns.items():
                if source == "feature" and name in LENGTHS:
                    self._add_length(name, value, numbers)
                elif name not in seen:
                    self._add_value(source, name, value, numbers)
                    seen.add(name)

    @staticmethod
    def _sources(
        scoring: Mapping[str, Any], document: Mapping[str, Any], features: Mapping[str, Any]
    ) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        yield "scoring", scoring
        yield "document", document
        yield "feature", features

    def _add_value(self, source: Source, name: str, value: Any, numbers: Mapping[str, float]) -> None:
        key: tuple[Source, str] = ("declared" if name in self._declared else source, name)
        if key not in self._columns:
            if len(self._columns) >= _MOST_COLUMNS and key[0] != "declared":
                return
            self._columns[key] = {} if may_be_dimension(name, key[0]) else None
        groups = self._columns[key]
        text = dimension_value(value)
        if groups is None or text is None:
            return
        if text not in groups:
            if len(groups) >= (MOST_DECLARED_GROUPS if key[0] == "declared" else MOST_GROUPS):
                self._columns[key] = None
                return
            groups[text] = _Group()
        groups[text].add(numbers)

    def _add_length(self, name: str, value: Any, numbers: Mapping[str, float]) -> None:
        if not isinstance(value, int) or value < 0:
            return
        bins = self._lengths.setdefault(name, {})
        own = bins.setdefault(length_bin(value), _Lengths(value, value))
        own.least, own.most = min(own.least, value), max(own.most, value)
        own.group.add(numbers)

    def slices(self, derivation: str | None) -> list[DimensionSlices]:
        """Return the useful dimensions; the groups' scores are those of the derivation that was accepted."""
        found: dict[str, DimensionSlices] = {}
        for (source, name), groups in self._columns.items():
            sizes = {value: group.documents for value, group in (groups or {}).items()}
            if groups and name not in found and useful(sizes, declared=source == "declared"):
                found[name] = DimensionSlices(
                    dimension(name, source), _slices(dict(sorted(groups.items())), derivation)
                )
        for name, bins in self._lengths.items():
            groups = _joined(bins)
            if name not in found and useful({value: group.documents for value, group in groups.items()}):
                own: Source = "declared" if name in self._declared else "feature"
                found[name] = DimensionSlices(dimension(name, own), _slices(groups, derivation))
        return sorted(found.values(), key=lambda kept: _ORDER.index(kept.dimension.source))

    def length_names(self, name: str) -> dict[int, str]:
        """The names of a length's groups by the bins that they hold (`length_bin`)."""
        bins = self._lengths.get(name, {})
        return quartile_names({edge: (own.least, own.most, own.group.documents) for edge, own in bins.items()})

    def unmet(self) -> dict[str, str]:
        """Say which declared dimensions cannot be shown, and why."""
        shown = {kept.dimension.name for kept in self.slices(None)}
        return {name: self._why_not(name) for name in self._declared if name not in shown}

    def _why_not(self, name: str) -> str:
        if ("declared", name) not in self._columns:
            return "neither the documents nor the scoring have a column of this name"
        groups = self._columns["declared", name]
        if groups is None:
            return f"it has more than {MOST_DECLARED_GROUPS} values"
        return f"it has {len(groups)} value{'' if len(groups) == 1 else 's'}, which cuts nothing"


_ORDER: tuple[Source, ...] = ("declared", "scoring", "document", "feature")


def _joined(bins: Mapping[int, _Lengths]) -> dict[str, _Group]:
    names = quartile_names({edge: (own.least, own.most, own.group.documents) for edge, own in bins.items()})
    groups: dict[str, _Group] = {}
    for edge in sorted(names):
        own, group = bins[edge].group, groups.setdefault(names[edge], _Group())
        group.documents += own.documents
        for derivation, sums in own.scores.items():
            group.scores[derivation] = group.scores.get(derivation, ScoreSums()).merged(sums)
    return groups


def _slices(groups: Mapping[str, _Group], derivation: str | None) -> tuple[SliceSum, ...]:
    return tuple(
        SliceSum(value, group.documents, group.scores.get(derivation or "", ScoreSums()))
        for value, group in groups.items()
    )
