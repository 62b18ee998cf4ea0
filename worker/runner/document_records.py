"""Reads each evaluated document once: its hash, its plain columns and its media.

Owns the budget for thumbnails: documents come in the caller's order of interest, and the first ones get theirs.
Every document's media are told by kind, hash and size; only a thumbnail has the budget's price.
"""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from worker.runner.documents import (
    Scalar,
    StoredMedia,
    image_hash,
    images_of,
    read_content,
    scalar_columns,
    with_encoded_media,
)
from worker.runner.thumbnails import Thumbnail, thumbnail

_MOST_PICTURES = 4  # per document
_MOST_MEDIA = 32  # per document; a video that is stored as its frames has thousands
# What a task's own code may raise over a document that it could read before (a moved file, a closed archive).
_MEDIA_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class MediaReference:
    """A picture, sound or video of a document; with a thumbnail where the budget allowed one."""

    media: StoredMedia
    picture: Thumbnail | None = None

    def row(self) -> dict[str, Any]:
        """Return it as the samples table has it; with a thumbnail, `mime` is the thumbnail's."""
        row = asdict(self.media)
        if self.picture is None:
            return {**row, "data": None}
        return {**row, "mime": self.picture.mime, "data": self.picture.data}


@dataclass(frozen=True)
class DocumentRecord:
    """What is kept of one document."""

    content_hash: str
    scalars: dict[str, Scalar]
    images: int
    media: list[MediaReference]


class PictureBudget:
    """Bytes and seconds that may still be spent on what the model was shown."""

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock

    def shown(self, task: Any, document: Mapping[str, Any]) -> list[MediaReference]:
        """Return the media that the model was shown, with thumbnails; none when that would exceed the budget."""
        if self._size <= 0 or self._seconds <= 0:
            return []
        started = self._clock()
        items = list(_shown(task, document)) or list(images_of(document))
        references = [_reference(item, number < _MOST_PICTURES) for number, item in enumerate(items[:_MOST_MEDIA])]
        found = [reference for reference in references if reference is not None]
        self._seconds -= self._clock() - started
        self._size -= sum(len(reference.picture.data) for reference in found if reference.picture is not None)
        return found if self._size >= 0 else []


def read_documents(
    task: Any, order: Sequence[int], budget: PictureBudget, advance: Callable[[int], None]
) -> dict[int, DocumentRecord]:
    """Read the documents in `order`; thumbnails until the budget is spent."""
    stored = with_encoded_media(task.eval_docs)
    records = {}
    for done, doc_id in enumerate(order, start=1):
        document = stored[doc_id]
        shown = document if stored is task.eval_docs else task.eval_docs[doc_id]
        content = read_content(document)
        media = budget.shown(task, shown) or [MediaReference(item) for item in content.media[:_MOST_MEDIA]]
        records[doc_id] = DocumentRecord(
            content_hash=content.sha256,
            scalars=scalar_columns(document),
            images=len(images_of(document)),
            media=media,
        )
        advance(done)
    return records


def _shown(task: Any, document: Mapping[str, Any]) -> Iterator[Any]:
    """Return what the task makes of a document for the model: images, sounds, paths of files."""
    if not callable(getattr(task.config, "doc_to_visual", None)):
        return
    try:
        shown = task.doc_to_visual(document) or []
    except _MEDIA_ERRORS:
        return
    yield from shown


def _reference(item: Any, with_picture: bool) -> MediaReference | None:
    if isinstance(item, Image.Image):
        media = StoredMedia("image", image_hash(item), None, item.width, item.height)
        return MediaReference(media, thumbnail(item) if with_picture else None)
    if isinstance(item, str):
        return _file_reference(item)
    if isinstance(item, Mapping) and isinstance(item.get("array"), np.ndarray) and item.get("sampling_rate"):
        (media,) = read_content({"sound": {key: item[key] for key in ("array", "sampling_rate")}}).media
        return MediaReference(media)
    return None


def _file_reference(path: str) -> MediaReference | None:
    """A file by its name alone: videos are too large to be read a second time for their hash."""
    mime = mimetypes.guess_type(PurePath(path).name)[0]
    if mime is None:
        return None
    return MediaReference(StoredMedia(mime.partition("/")[0], None, mime))
