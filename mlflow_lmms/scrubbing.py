"""Take secrets out of text before it is stored or shown: known values, and what looks like one. Pure.

It is the last line of defence: keys travel in the runner's environment only, but a library may print one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"

#: Shorter values would take ordinary words out of the text.
_SHORTEST_VALUE = 4
# Without what may stand before it in a name: that would be looked for at every character of a text without spaces.
_NAME = r"(?:api[_\-]?key|secret(?:[_\-]?key)?|passw(?:or)?d|(?:access|auth|hf|bearer|refresh)[_\-]?token)"
#: A shape, what takes its place, and the words of which one stands in every text (in lower case) that has the shape.
_SHAPES: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = (
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), MASK, ("hf_",)),
    (re.compile(r"\bsk-[A-Za-z0-9_\-]{8,}"), MASK, ("sk-",)),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}"), MASK, ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), MASK, ("akia",)),
    (re.compile(r"\bAIza[0-9A-Za-z_\-]{30,}"), MASK, ("aiza",)),
    (
        re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9_\-.~+/]{8,}=*", re.IGNORECASE),
        rf"\1 {MASK}",
        ("bearer", "basic"),
    ),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), rf"\1{MASK}@", ("://",)),
    # name=value, name: value and "name": "value", whatever the value is
    (
        re.compile(rf"""({_NAME}\\?["']?\s*[=:]\s*\\?["']?)([^\s"',;&}})\\]+)""", re.IGNORECASE),
        rf"\1{MASK}",
        ("key", "secret", "passw", "token"),
    ),
)


class Scrubber:
    """Masks the given secret values, in the spellings that programs print, and everything of a secret's shape."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = {spelling for value in values for spelling in _spellings(value)}
        # The longest first: one secret may begin like another.
        ordered = sorted((s for s in spellings if len(s) >= _SHORTEST_VALUE), key=lambda s: (-len(s), s))
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        words = {word for _, _, own in _SHAPES for word in own}
        #: A regular expression (RE2 takes it, ignoring case) that every text with a secret matches, and few others.
        self.hint = "|".join(map(re.escape, sorted(words) + ordered))

    def scrub(self, text: str) -> str:
        """Return `text` with every secret in it replaced by stars."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        lower = text.lower()
        for shape, replacement, words in _SHAPES:
            for word in words:  # a plain loop: most texts have no such word, and there are millions of them
                if word in lower:
                    text = shape.sub(replacement, text)
                    break
        return text


def _spellings(value: str) -> set[str]:
    # Logs come line by line, so each line of a value (a private key, say) counts by itself.
    lines = [line.strip() for line in value.splitlines() if line.strip()]
    return {
        spelling
        for line in lines
        for spelling in (line, json.dumps(line)[1:-1], repr(line)[1:-1], quote(line, safe=""), quote_plus(line))
    }
