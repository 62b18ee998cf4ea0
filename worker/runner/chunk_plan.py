"""How a task's requests are cut into chunks.

Pure. Owns the size of a chunk and where one may end: a killed run repeats what its last chunk had begun, so that a
chunk is a small share of the task and not more than a minute's work, small tasks and slow models included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_LARGEST_SHARE = 0.05
#: Half of the minute that a chunk may take, since requests differ.
_SECONDS = 30.0


class ChunkPlan:
    """Cuts requests, given by their documents; it learns from each chunk how long requests take.

    A chunk never splits a document, and is a whole number of the batches that the model works on together: less than
    one would leave the accelerator idle.
    """

    def __init__(self, documents: Sequence[Any], largest: int, batch: int) -> None:
        self._documents = documents
        self._batch = batch
        self._most = max(1, min(largest, math.floor(len(documents) * _LARGEST_SHARE)))
        self._end = 0
        self._seconds_each: float | None = None

    def next(self) -> slice | None:
        """The next chunk; None when all are cut."""
        start, total = self._end, len(self._documents)
        if start == total:
            return None
        end = min(start + self._size(), total)
        while end < total and self._documents[end] == self._documents[end - 1]:
            end += 1
        self._end = end
        return slice(start, end)

    def took(self, requests: int, seconds: float) -> None:
        """Learn from a chunk. One whose answers were kept is fast, and the next is as large as a share may be."""
        self._seconds_each = seconds / requests

    def _size(self) -> int:
        if self._seconds_each is None:
            return self._batch
        wanted = self._most
        if self._seconds_each > 0:
            wanted = min(wanted, int(_SECONDS / self._seconds_each))
        return max(1, wanted // self._batch) * self._batch
