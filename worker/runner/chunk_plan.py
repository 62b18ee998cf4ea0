"""How a task's requests are cut into chunks.

Pure. Owns the size of a chunk and where one may end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

_FEWEST_CHUNKS = 20  # per task, so that a minute's work shows its score often enough
_SMALLEST_CHUNK = 8


def requests_per_chunk(requests: int, largest: int, batch: int) -> int:
    """Choose a chunk's size: many chunks, none larger than `largest`, each a whole number of batches.

    A chunk below the model's batch would leave the accelerator idle, so the batch wins over `largest`.
    """
    size = min(largest, max(_SMALLEST_CHUNK, math.ceil(requests / _FEWEST_CHUNKS)))
    return math.ceil(size / batch) * batch


def document_chunks(documents: Sequence[Any], size: int) -> Iterator[slice]:
    """Cut requests, given by their documents, into slices of about `size` that never split a document."""
    start = 0
    while start < len(documents):
        end = min(start + size, len(documents))
        while end < len(documents) and documents[end] == documents[end - 1]:
            end += 1
        yield slice(start, end)
        start = end
