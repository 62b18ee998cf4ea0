"""Documents cut into groups by one property, such as the language or the kind of question. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Groups of fewer documents are shown but not judged: they are neither worst nor part of a gap.
FEWEST_JUDGED = 10


@dataclass(frozen=True)
class Groups:
    """Which group each document belongs to: `codes` index `names`, -1 where the document has no value.

    `codes` has shape (documents,).
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]

    @staticmethod
    def of(values: Sequence[str | None]) -> Groups:
        """Groups by the documents' values, in the order of their names."""
        names = sorted({value for value in values if value is not None})
        places: dict[str | None, int] = {name: at for at, name in enumerate(names)}
        return Groups(tuple(names), np.array([places.get(value, -1) for value in values], dtype=np.int64))

    def at(self, places: NDArray[np.int64]) -> Groups:
        """The groups of the documents at these places."""
        return Groups(self.names, self.codes[places])

    def members(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each group that has documents, with their places."""
        for code, name in enumerate(self.names):
            places = np.flatnonzero(self.codes == code)
            if len(places):
                yield name, places
