"""When a box is to end: a time or duration as people write it, and how long before it work is given back. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from mlflow_lmms.errors import ConfigurationError

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SECONDS = (86400, 3600, 60, 1)
#: Before the end, work that runs is given back: the last tenth of the time, at most so long.
_GIVE_BACK_S = 120.0


def end_of(text: str, now: float) -> float:
    """The unix time that ``2026-03-01T18:00``, ``18:00`` (the next one), ``90m`` or ``1h30m`` means.

    Raises:
        ConfigurationError: it is none of these, or over.
    """
    words = text.strip()
    if words and (match := _DURATION.fullmatch(words)):
        return now + sum(int(number or 0) * unit for number, unit in zip(match.groups(), _SECONDS, strict=True))
    try:
        end = (
            datetime.fromisoformat(words).timestamp() if not re.fullmatch(r"\d\d:\d\d", words) else _next(words, now)
        )
    except ValueError:
        raise ConfigurationError(
            f"--until is a time as 2026-03-01T18:00 or 18:00, or a duration as 90m or 1h30m, got {text!r}"
        ) from None
    if end <= now:
        raise ConfigurationError(f"--until {text} is over")
    return end


def give_back_at(end: float, now: float) -> float:
    """When what still runs is to be given back, so that it is safe before the end."""
    return end - min(_GIVE_BACK_S, (end - now) / 10)


def _next(clock: str, now: float) -> float:
    hour, minute = (int(word) for word in clock.split(":"))
    today = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today.timestamp() + (86400 if today.timestamp() <= now else 0)
