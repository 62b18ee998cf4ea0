"""Reads each evaluated document once: its hash, its plain columns and its pictures.

Owns the budget for pictures: documents come in the caller's order of interest, and the first ones get theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from worker.runner.documents import Scalar, content_hash, images_of, scalar_columns, with_encoded_media
from worker.runner.thumbnails import Thumbnail, thumbnail

_MOST_PICTURES = 4  # per document
# What a task's own code may raise over a document that it could read before (a moved file, a closed archive).
_MEDIA_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class DocumentRecord:
    """What is kept of one document."""

    content_hash: str
    scalars: dict[str, Scalar]
    images: int
    thumbnails: list[Thumbnail]


class PictureBudget:
    """Bytes and seconds that may still be spent on pictures."""

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock

    def pictures(self, task: Any, document: Mapping[str, Any]) -> list[Thumbnail]:
        """Return pictures of what the model was shown, or none when that would exceed the budget."""
        if self._size <= 0 or self._seconds <= 0:
            return []
        started = self._clock()
        shown = list(_shown_images(task, document)) or images_of(document)
        pictures = [thumbnail(image) for image in shown[:_MOST_PICTURES]]
        self._seconds -= self._clock() - started
        self._size -= sum(len(picture.data) for picture in pictures)
        return pictures if self._size >= 0 else []


def read_documents(
    task: Any, order: Sequence[int], budget: PictureBudget, advance: Callable[[int], None]
) -> dict[int, DocumentRecord]:
    """Read the documents in `order`; pictures until the budget is spent."""
    stored = with_encoded_media(task.eval_docs)
    records = {}
    for done, doc_id in enumerate(order, start=1):
        document = stored[doc_id]
        shown = document if stored is task.eval_docs else task.eval_docs[doc_id]
        records[doc_id] = DocumentRecord(
            content_hash=content_hash(document),
            scalars=scalar_columns(document),
            images=len(images_of(document)),
            thumbnails=budget.pictures(task, shown),
        )
        advance(done)
    return records


def _shown_images(task: Any, document: Mapping[str, Any]) -> Iterator[Image.Image]:
    """Return the images that the task makes of a document for the model."""
    if not callable(getattr(task.config, "doc_to_visual", None)):
        return
    try:
        shown = task.doc_to_visual(document) or []
    except _MEDIA_ERRORS:
        return
    yield from (item for item in shown if isinstance(item, Image.Image))
