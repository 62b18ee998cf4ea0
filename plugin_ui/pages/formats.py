"""Numbers, times and sizes as the templates write them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_NOTHING = 1e-12


def score(value: float | None) -> str:
    """A score with as many digits as its size makes sense of, aligned in a column; empty for none."""
    if value is None:
        return ""
    size = abs(value) if abs(value) > _NOTHING else 0.0  # where arithmetic should have left nothing
    if 0 < size < 0.01:
        return f"{value:.2g}"
    return f"{value if size else 0.0:.3f}" if size < 10 else f"{value:.2f}" if size < 1000 else f"{value:.0f}"


def short(value: float) -> str:
    """A number as short as it can be said: ``1``, ``0.25``."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A span of time as people say it: ``42 s``, ``3 min 5 s``, ``2 h 14 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def iso_time(seconds: float) -> str:
    """Unix seconds for the ``datetime`` attribute."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def utc_time(seconds: float) -> str:
    """Unix seconds for readers without scripts; scripts make it local."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def file_size(size: int | None) -> str:
    """A file's size in decimal units; empty where it is not known."""
    if size is None:
        return ""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def memory_size(size: int) -> str:
    """Memory in the binary units that GPUs are sold by."""
    amount = size / (1 << 30)
    return f"{amount:.0f} GiB" if amount >= 10 or amount == 0 else f"{amount:.1f} GiB"


FILTERS: dict[str, Callable[..., Any]] = {
    "score": score,
    "short": short,
    "duration": duration,
    "iso_time": iso_time,
    "utc_time": utc_time,
    "file_size": file_size,
    "memory_size": memory_size,
}
