"""A field that no task file states, with what it was derived from."""

from __future__ import annotations

from typing import Any, NamedTuple


class Derived(NamedTuple):
    """A value, the evidence for it in words, and how sure it is (0 to 1). The value None: unknown."""

    value: Any
    evidence: str
    confidence: float
