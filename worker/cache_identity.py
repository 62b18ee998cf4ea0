"""Tells boxes that share a download cache (models, data sets) from others: by a file in the cache itself."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_FILE = ".mlflow-lmms-cache"


def cache_id(environ: Mapping[str, str]) -> str:
    """The cache's id, the same for every box that sees its folder; empty when the folder cannot be written."""
    file = hub_cache(environ) / _FILE
    with suppress(OSError):
        if (known := _read(file)) is not None:
            return known
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"{_FILE}.{uuid.uuid4().hex}")
        fresh.write_text(uuid.uuid4().hex, encoding="ascii")
        try:
            with suppress(FileExistsError):  # another box was quicker: its id counts
                os.link(fresh, file)
        finally:
            fresh.unlink()
        return _read(file) or ""
    return ""


def hub_cache(environ: Mapping[str, str]) -> Path:
    """The folder in which the Hugging Face libraries keep downloads, by their own rules."""
    if named := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~") / ".cache")
    home = environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return Path(home).expanduser() / "hub"


def _read(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    return text if text.isalnum() else None
