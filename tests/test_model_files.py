"""What a folder of model files tells: content hash, parameters, dtype, modalities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.model_files import ModelFiles, describe_files


def safetensors(file: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    """Write a safetensors file: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"data")


def test_nothing_is_known_of_no_folder() -> None:
    assert describe_files(None) == ModelFiles()


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_folder_without_files_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    if kind == "empty":
        (folder / "inner").mkdir(parents=True)
    elif kind == "file":
        folder.write_text("x")
    with pytest.raises(InvalidRequestError, match="expected a folder with the model's files"):
        describe_files(folder)


def test_the_hash_covers_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    def digest(folder: str, files: Mapping[str, str]) -> str | None:
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return describe_files(tmp_path / folder).sha256

    one = digest("one", {"a": "1", "sub/b": "2"})
    assert digest("two", {"sub/b": "2", "a": "1"}) == one
    others = [{"a": "1", "sub/b": "3"}, {"a": "1", "sub/c": "2"}, {"a": "1", "b": "2"}, {"a": "12", "sub/b": ""}]
    assert len({one, *(digest(f"other{n}", files) for n, files in enumerate(others))}) == 5


def test_the_hash_stays_the_same_over_versions(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    expected = hashlib.sha256(b"a\0" + hashlib.sha256(b"content").digest()).hexdigest()
    assert describe_files(tmp_path).sha256 == expected


def test_parameters_and_dtype_come_from_the_tensors(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-1.safetensors", {"w": ("BF16", [4, 8]), "b": ("F32", [8])})
    safetensors(tmp_path / "model-2.safetensors", {"v": ("BF16", [2, 2, 2]), "scalar": ("F32", [])})
    files = describe_files(tmp_path)
    assert (files.parameters, files.dtype) == (32 + 8 + 8 + 1, "BF16")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        (5).to_bytes(8, "little") + b"{",
        (2).to_bytes(8, "little") + b"[]",
        (14).to_bytes(8, "little") + b'{"w":{"x": 1}}',
        (17).to_bytes(8, "little") + b'{"w": {"dtype":1}',
    ],
)
def test_a_broken_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"model\.safetensors is no safetensors file"):
        describe_files(tmp_path)


@pytest.mark.parametrize(
    ("config", "modalities"),
    [
        ('{"vision_config": {}, "text_config": {}}', ("text", "image")),
        (
            '{"vision_start_token_id": 1, "video_token_id": 2, "audio_config": {}}',
            ("text", "image", "video", "audio"),
        ),
        ('{"hidden_size": 8}', ("text",)),
        ("not json", ()),
        ("[1, 2]", ()),
        ("3", ()),
        ('["vision"]', ()),
    ],
)
def test_modalities_come_from_the_models_config(tmp_path: Path, config: str, modalities: tuple[str, ...]) -> None:
    (tmp_path / "config.json").write_text(config)
    assert describe_files(tmp_path).modalities == modalities


def test_a_folder_without_config_or_tensors_has_a_hash_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"x")
    files = describe_files(tmp_path)
    assert files.sha256 is not None
    assert files == ModelFiles(files.sha256)
