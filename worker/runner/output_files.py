"""Files of the output folder: safe names, and complete or absent.

Owns how a file is written. What is in it is the caller's business.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_SAFE = re.compile(r"[A-Za-z0-9_.-]")


def escape(name: str) -> str:
    """Return `name` as a file name: every other character becomes ``.xHHHH.`` (its code point in hex).

    So does a dot that comes first (``.`` and ``..`` are no file names) or that would look like such an escape.
    """
    return "".join(
        char if _SAFE.match(char) and not (char == "." and (at == 0 or name.startswith(".x", at))) else _hex(char)
        for at, char in enumerate(name)
    )


def _hex(char: str) -> str:
    return f".x{ord(char):04X}."


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file; what JSON cannot say (NaN, infinity) becomes null."""
    text = json.dumps(plain(document), ensure_ascii=False, allow_nan=False, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def plain(value: Any) -> Any:
    """Return `value` made of JSON types only; NumPy's numbers are numbers."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value)
