"""A benchmark document's identity and its plain columns.

Owns the content hash by which results of different runs are paired: equal content gives an equal hash on every
machine, whatever the document's number. Nothing of a model's answer enters it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ENCODED_FEATURES = ("Audio", "Video")  # data set features whose decoder objects have no stable content
Scalar = str | int | float | bool


def content_hash(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the document's canonical JSON.

    Columns sorted by name; an image as the hash of mode, size and raw pixels; other bytes as their hash; floats as
    Python's ``repr``; arrays as the hash of type, shape and bytes; a file given with its bytes without its path.
    """
    text = json.dumps(_canonical(document), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def image_hash(image: Image.Image) -> str:
    """Return the SHA-256 of an image's mode, size and raw pixels."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


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


def _canonical(value: Any) -> Any:
    value = _unwrap(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value  # json writes repr
    if isinstance(value, Image.Image):
        return {"image": image_hash(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.ndarray):
        head = f"{value.dtype.str} {value.shape} ".encode()
        return {"array": hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()}
    if isinstance(value, Mapping):
        return _canonical_mapping(value)
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return f"{type(value).__name__}:{_ADDRESS.sub('', str(value))}"


def _canonical_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    """A stored file says the same under any path, so its path counts only where there is nothing else."""
    items = dict(value)
    if "path" in items and (items.get("bytes") is not None or "array" in items):
        del items["path"]
    elif set(items) == {"bytes", "path"} and isinstance(items["path"], str):
        file = Path(items["path"])
        items = {"bytes": file.read_bytes()} if file.is_file() else {"path": PurePath(file).name}
    return {str(key): _canonical(item) for key, item in items.items()}


def _unwrap(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _find_images(values: Iterable[Any]) -> Iterable[Image.Image]:
    for value in values:
        if isinstance(value, Image.Image):
            yield value
        elif isinstance(value, list | tuple):
            yield from _find_images(value)
