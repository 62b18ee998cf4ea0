"""Lines of a program's free-form output: cutting the stream, dropping progress bars, guessing the level. Pure."""

from __future__ import annotations

import codecs
import re

#: A line longer than this is cut there: a program that never ends its line must not fill the memory.
LONGEST_LINE = 16_384

_BAR = re.compile(r"\d+%\|.*\||\b\d+it \[|\b\d+/(?:\d+|\?) \[\d\d:\d\d|\[\d\d:\d\d<(?:\?|\d\d:\d\d)")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEVELS = (
    (re.compile(r"\b(?:ERROR|CRITICAL|FATAL)\b|^Traceback |^\w*(?:\.\w+)*(?:Error|Exception): "), "ERROR"),
    (re.compile(r"\bWARN(?:ING)?\b|\w*Warning: "), "WARNING"),
    (re.compile(r"\bDEBUG\b"), "DEBUG"),
)


class LineCutter:
    """Cuts bytes as they come into lines, at ``\\n`` and at ``\\r`` (which progress bars end with)."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes, *, last: bool = False) -> list[str]:
        """The lines that are complete now; with `last` also the one that was never ended."""
        *lines, self._rest = re.split(r"[\r\n]", self._rest + self._decoder.decode(data, last))
        while len(self._rest) > self._longest:
            lines.append(self._rest[: self._longest])
            self._rest = self._rest[self._longest :]
        if last:
            lines.append(self._rest)
            self._rest = ""
        return [clean for line in lines if (clean := _ANSI.sub("", line).rstrip())]


def is_progress_bar(line: str) -> bool:
    """Whether a line is a state of a tqdm bar, which comes as a typed event anyway."""
    return _BAR.search(line) is not None


def level_of(line: str) -> str:
    """The level that a line most likely has."""
    return next((level for shape, level in _LEVELS if shape.search(line)), "INFO")
