"""What can become of a document from one result to another. Pure."""

from __future__ import annotations

from enum import StrEnum


class FlipKind(StrEnum):
    """What became of a document; each has exactly one.

    Right is the best score possible: 1 or more, where lower is better 0 or less. BETTER and WORSE are changes of the
    score that stay on one side of that; CHANGED is another answer with the same score.
    """

    RIGHT_TO_WRONG = "right_to_wrong"
    WRONG_TO_RIGHT = "wrong_to_right"
    WORSE = "worse"
    BETTER = "better"
    CHANGED = "changed"
    SAME = "same"


#: What is shown where nothing else is asked for.
CHANGES = frozenset(FlipKind) - {FlipKind.SAME}
