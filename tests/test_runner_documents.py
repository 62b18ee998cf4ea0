"""The document content hash: fixed vectors, and what must and must not change it. And what is kept of a document."""

from __future__ import annotations

import datetime
import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worker.runner.documents import content_hash, image_hash, images_of, scalar_columns
from worker.runner.thumbnails import thumbnail


def _image(mode: str = "L", size: tuple[int, int] = (3, 2), value: int = 7) -> Image.Image:
    return Image.new(mode, size, value)


VECTORS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    "plain": ({"b": 1, "a": "é", "c": None, "d": True}, '{"a":"é","b":1,"c":null,"d":true}'),
    "floats": ({"x": 0.1, "y": 1.0, "z": 1e22}, '{"x":0.1,"y":1.0,"z":1e+22}'),
    "nested": ({"l": [1, [2.5, "x"]], "m": {"z": 1, "a": 2}}, '{"l":[1,[2.5,"x"]],"m":{"a":2,"z":1}}'),
    "bytes": (
        {"b": b"abc"},
        '{"b":{"bytes":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}',
    ),
    "image": (
        {"i": _image()},
        '{"i":{"image":"' + hashlib.sha256(b"L 3x2 " + bytes([7] * 6)).hexdigest() + '"}}',
    ),
    "array": (
        {"a": np.array([[1, 2]], dtype="<i4")},
        '{"a":{"array":"' + hashlib.sha256(b"<i4 (1, 2) \1\0\0\0\2\0\0\0").hexdigest() + '"}}',
    ),
    "date": ({"d": datetime.date(2024, 2, 29)}, '{"d":"2024-02-29"}'),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    document, expected = VECTORS[name]
    if not expected.startswith("{"):
        assert content_hash(document) == expected
    else:
        assert content_hash(document) == hashlib.sha256(expected.encode()).hexdigest()


def test_fixed_hash_of_a_whole_document() -> None:
    document = {"question": "Which digit?", "image": _image(), "answer": "7", "index": 12, "weight": 0.25}
    assert content_hash(document) == "ed0e5637e38c898c031f9f95adee08f73c8f41a6e610e91a94aa2c46a1fd3f70"


Scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
Documents = st.dictionaries(st.text(), st.recursive(Scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5))


@given(Documents)
def test_order_of_columns_does_not_matter(document: dict[str, Any]) -> None:
    assert content_hash(dict(reversed(document.items()))) == content_hash(document)


@given(Documents, st.text(), Scalars)
def test_any_changed_column_changes_the_hash(document: dict[str, Any], name: str, value: Any) -> None:
    changed = {**document, name: value}
    same = json.dumps(changed, sort_keys=True) == json.dumps(document, sort_keys=True)
    assert (content_hash(changed) == content_hash(document)) == same


def test_one_pixel_mode_or_shape_changes_an_image() -> None:
    spot = _image()
    spot.putpixel((0, 0), 8)
    images = [_image(), spot, _image(size=(2, 3)), _image(size=(6, 1)), _image().convert("RGB")]
    assert len({image_hash(image) for image in images}) == len(images)


def test_encoding_of_an_image_does_not_matter() -> None:
    stored = BytesIO()
    _image().save(stored, "PNG")
    assert image_hash(Image.open(stored)) == image_hash(_image())


def test_numpy_scalars_count_as_plain_numbers() -> None:
    assert content_hash({"a": np.int64(3), "b": np.float64(0.5)}) == content_hash({"a": 3, "b": 0.5})


def test_place_of_a_stored_file_does_not_matter(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(b"sound")
    inline = {"audio": {"bytes": b"sound", "path": "a.wav"}}
    by_path = [{"audio": {"bytes": None, "path": str(tmp_path / folder / "a.wav")}} for folder in ("one", "two")]
    assert content_hash(by_path[0]) == content_hash(by_path[1]) == content_hash(inline)
    missing = [{"audio": {"bytes": None, "path": f"/{folder}/gone.wav"}} for folder in ("one", "two")]
    assert content_hash(missing[0]) == content_hash(missing[1]) != content_hash(inline)


def test_scalar_columns_and_images() -> None:
    images = [_image(), _image(value=9)]
    document = {
        "text": "x",
        "n": np.int64(2),
        "ok": True,
        "none": None,
        "list": [1],
        "image": images[0],
        "more": images,
    }
    assert scalar_columns(document) == {"text": "x", "n": 2, "ok": True}
    assert len(images_of(document)) == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(8, 8), (700, 300)])
def test_thumbnail_of_every_mode(mode: str, size: tuple[int, int]) -> None:
    picture = thumbnail(Image.new(mode, size))
    opened = Image.open(BytesIO(picture.data))
    assert picture.mime == f"image/{str(opened.format).lower()}"
    assert max(opened.size) <= 256
    if max(size) <= 256:
        assert opened.size == size


def test_small_picture_keeps_every_pixel() -> None:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    assert image_hash(Image.open(BytesIO(thumbnail(image).data))) == image_hash(image)
