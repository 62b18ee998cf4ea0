"""Ranks with ties: names that no test tells apart share one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def tie_groups(ordered: Sequence[str], differ: Callable[[str, str], bool]) -> dict[str, int]:
    """Rank of each name (1 is best), where a name that does not differ from its group's best shares that rank.

    Args:
        ordered: names, best first.
        differ: whether the difference of two names is significant.
    """
    ranks: dict[str, int] = {}
    leader: str | None = None
    for position, name in enumerate(ordered, start=1):
        if leader is None or differ(leader, name):
            leader = name
            ranks[name] = position
        else:
            ranks[name] = ranks[leader]
    return ranks
