"""What a folder of model files tells about the model: a hash of its content, parameters, dtype, modalities."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_lmms.errors import InvalidRequestError

_HEADER_LIMIT = 100 * (1 << 20)


@dataclass(frozen=True)
class ModelFiles:
    """Facts of one folder; `sha256` covers every file's relative path and bytes."""

    sha256: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    modalities: tuple[str, ...] = ()


def describe_files(folder: Path | None) -> ModelFiles:
    """Read the facts of `folder`; nothing is known of no folder.

    Raises:
        InvalidRequestError: the folder is not there, or holds no file.
    """
    if folder is None:
        return ModelFiles()
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise InvalidRequestError(f"expected a folder with the model's files, but {folder} is none or is empty")
    parameters, dtype = _tensors(files)
    return ModelFiles(_digest(folder, files), parameters, dtype, _modalities(folder / "config.json"))


def _digest(folder: Path, files: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        whole.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _tensors(files: list[Path]) -> tuple[int | None, str | None]:
    """Parameters and commonest dtype, from the headers of safetensors files (8 bytes length, then JSON)."""
    counts: Counter[str] = Counter()
    for path in files:
        if path.suffix == ".safetensors":
            counts.update(_header(path))
    if not counts:
        return None, None
    return sum(counts.values()), counts.most_common(1)[0][0]


def _header(path: Path) -> Counter[str]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _HEADER_LIMIT:
            raise InvalidRequestError(f"{path} is no safetensors file: its header claims {length} bytes")
        try:
            header: Any = json.loads(stream.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            return sum((Counter({str(e["dtype"]): math.prod(e["shape"])}) for e in entries), Counter())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidRequestError(f"{path} is no safetensors file: its header cannot be read") from None


def _modalities(config: Path) -> tuple[str, ...]:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    if not isinstance(content, dict):
        return ()
    keys = " ".join(content)
    seen = [name for name, word in (("image", "vision"), ("video", "video"), ("audio", "audio")) if word in keys]
    return ("text", *seen)
