"""A table of text as every form of report shows it: columns, cells, remarks below. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell; `strong` is what the eye should find."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table with its title and what must be known to read it; `numbers` tells which columns stand right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    remarks: tuple[str, ...] = ()
    numbers: tuple[bool, ...] = ()


def number(value: float | None, digits: int = 4) -> str:
    """A number for people, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def score(value: float | None) -> str:
    """A score: three decimals, fewer where the scale is larger, so that those of a column stand under each other."""
    if value is None:
        return "–"
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 3 if abs(value) < 10 else 2 if abs(value) < 1000 else 1


def signed(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return "–"
    shown = f"{value:+,.{_decimals(value)}f}"
    return shown if value == 0 or abs(value) >= 0.001 else f"{value:+.1g}"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """An interval in brackets; empty where there is none."""
    if low is None or high is None:
        return ""
    shown = signed if sign else score
    return f"[{shown(low)}, {shown(high)}]"
