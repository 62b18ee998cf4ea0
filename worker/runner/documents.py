"""A benchmark document's identity and its plain columns.

Owns the content hash by which results of different runs are paired: equal content gives an equal hash on every
machine, whatever the document's number. Nothing of a model's answer enters it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import mimetypes
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ENCODED_FEATURES = ("Audio", "Video")  # data set features whose decoder objects have no stable content
Scalar = str | int | float | bool


@dataclass(frozen=True)
class StoredMedia:
    """A picture, sound or video of a document, known by the hash of its pixels or of its bytes."""

    kind: str
    sha256: str | None
    mime: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class DocumentContent:
    """A document's hash, and the media that were hashed for it, in the order of its columns' names."""

    sha256: str
    media: tuple[StoredMedia, ...]


def read_content(document: Mapping[str, Any]) -> DocumentContent:
    """Return the SHA-256 of the document's canonical JSON, and its media.

    Columns sorted by name; an image as the hash of mode, size and raw pixels; other bytes as their hash; floats as
    Python's ``repr``; arrays as the hash of type, shape and bytes; a file given with its bytes without its path.
    """
    canonical = _Canonical()
    columns = canonical.columns(document)
    text = json.dumps(columns, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return DocumentContent(_sha256(text.encode("utf-8", errors="surrogatepass")), tuple(canonical.media))


def content_hash(document: Mapping[str, Any]) -> str:
    """Return the document's hash alone."""
    return read_content(document).sha256


def image_hash(image: Image.Image) -> str:
    """Return the SHA-256 of an image's mode, size and raw pixels."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return _sha256(head + image.tobytes())


def scalar_columns(document: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the columns that hold a text, number or truth value."""
    plain = {name: _unwrap(value) for name, value in document.items()}
    return {name: value for name, value in plain.items() if isinstance(value, str | int | float | bool)}


def images_of(document: Mapping[str, Any]) -> list[Image.Image]:
    """Return the document's images, in the order of its columns."""
    return list(_find_images(document.values()))


def with_encoded_media(documents: Any) -> Any:
    """Return the data set with sound and video as the bytes they are stored as, where it is a data set."""
    for name, feature in (getattr(documents, "features", None) or {}).items():
        if type(feature).__name__ in _ENCODED_FEATURES:
            documents = documents.cast_column(name, type(feature)(decode=False))
    return documents


class _Canonical:
    """Turns a document into JSON that says its content, and notes the media on the way."""

    def __init__(self) -> None:
        self.media: list[StoredMedia] = []

    def columns(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        """Turn a mapping, by its names in order."""
        return {str(key): self.of(value[key]) for key in sorted(value, key=str)}

    def of(self, value: Any) -> Any:
        """Turn any value."""
        value = _unwrap(value)
        if value is None or isinstance(value, str | bool | int):
            return value
        if isinstance(value, float):
            return value  # json writes repr
        if isinstance(value, Image.Image):
            return {"image": self._image(value)}
        if isinstance(value, bytes | bytearray | memoryview):
            return {"bytes": _sha256(value)}
        if isinstance(value, np.ndarray):
            head = f"{value.dtype.str} {value.shape} ".encode()
            return {"array": _sha256(head + np.ascontiguousarray(value).tobytes())}
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        return f"{type(value).__name__}:{_ADDRESS.sub('', str(value))}"

    def _image(self, image: Image.Image) -> str:
        digest = image_hash(image)
        mime = Image.MIME.get(image.format or "")
        self.media.append(StoredMedia("image", digest, mime, image.width, image.height))
        return digest

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        """A stored file says the same under any path, so its path counts only where there is nothing else."""
        items = dict(value)
        path = items.get("path")
        if "path" in items and (items.get("bytes") is not None or "array" in items):
            del items["path"]
        elif set(items) == {"bytes", "path"} and isinstance(path, str):
            file = Path(path)
            items = {"bytes": file.read_bytes()} if file.is_file() else {"path": PurePath(file).name}
        turned = self.columns(items)
        if isinstance(stored := items.get("bytes"), bytes):
            self._note_file(stored, turned["bytes"]["bytes"], path)
        elif isinstance(items.get("array"), np.ndarray) and items.get("sampling_rate"):
            self._note_sound(items["array"], turned["array"]["array"], items["sampling_rate"])
        return turned

    def _note_file(self, stored: bytes, digest: str, path: Any) -> None:
        mime = mimetypes.guess_type(path)[0] if isinstance(path, str) else None
        kind = (mime or "file").partition("/")[0]
        self.media.append(StoredMedia(kind, digest, mime, bytes=len(stored)))

    def _note_sound(self, array: np.ndarray[Any, Any], digest: str, rate: Any) -> None:
        self.media.append(StoredMedia("audio", digest, seconds=round(array.shape[-1] / float(rate), 3)))


def _sha256(content: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _unwrap(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _find_images(values: Iterable[Any]) -> Iterable[Image.Image]:
    for value in values:
        if isinstance(value, Image.Image):
            yield value
        elif isinstance(value, list | tuple):
            yield from _find_images(value)
