"""What `catalog check` finds wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Problem(NamedTuple):
    """One finding at one line of one file: what was expected, what came, what to do."""

    file: Path
    line: int
    severity: Severity
    expected: str
    came: str
    remedy: str
