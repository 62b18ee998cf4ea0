"""Reads each evaluated document once: its hash, its plain columns and its thumbnails.

Owns the byte budget for thumbnails: documents come in the caller's order of interest, and the first ones get theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


def read_documents(
    task: Any, order: Sequence[int], thumbnail_bytes: int, advance: Callable[[int], None]
) -> dict[int, DocumentRecord]:
    """Read the documents in `order`; pictures until the budget is spent."""
    documents = with_encoded_media(task.eval_docs)
    records = {}
    left = thumbnail_bytes
    for done, doc_id in enumerate(order, start=1):
        document = documents[doc_id]
        images = images_of(document) or list(_shown_images(task, doc_id)) if left > 0 else images_of(document)
        pictures = [thumbnail(image) for image in images[:_MOST_PICTURES]] if left > 0 else []
        size = sum(len(picture.data) for picture in pictures)
        if size > left:
            pictures, left = [], 0
        left -= size if pictures else 0
        records[doc_id] = DocumentRecord(content_hash(document), scalar_columns(document), len(images), pictures)
        advance(done)
    return records


def _shown_images(task: Any, doc_id: int) -> Iterator[Image.Image]:
    """Return the images that the task itself makes of a document without image columns."""
    if not callable(getattr(task.config, "doc_to_visual", None)):
        return
    try:
        shown = task.doc_to_visual(task.eval_docs[doc_id]) or []
    except _MEDIA_ERRORS:
        return
    yield from (item for item in shown if isinstance(item, Image.Image))
