"""Small pictures of what a model was shown, for the pages.

Owns their size and format. Which documents get one is decided by the caller's byte budget.
"""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

_LONGEST_SIDE = 256
_PHOTO_MODES = ("RGB", "L", "CMYK", "YCbCr")


class Thumbnail(NamedTuple):
    """An encoded picture."""

    mime: str
    data: bytes


def thumbnail(image: Image.Image) -> Thumbnail:
    """Encode an image: a small one losslessly as it is, a larger one shrunk."""
    if max(image.size) <= _LONGEST_SIDE:
        return _encode(image, "PNG")
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return _encode(small, "JPEG" if small.mode in _PHOTO_MODES else "PNG")


def _encode(image: Image.Image, kind: str) -> Thumbnail:
    # PNG knows fewer modes than PIL; RGBA keeps what a viewer can see.
    if kind == "PNG" and image.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):
        image = image.convert("RGBA")
    if kind == "JPEG" and image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return Thumbnail(f"image/{kind.lower()}", buffer.getvalue())
