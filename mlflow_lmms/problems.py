"""What pydantic found wrong, in one sentence for people. Pure."""

from __future__ import annotations

from pydantic import ValidationError

_MOST = 20


def problems(error: ValidationError, whole: str) -> str:
    """Each field with what is wrong with it; `whole` is what the fields belong to."""
    told = [
        f"{'.'.join(map(str, item['loc'])) or whole}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()[:_MOST]
    ]
    return "; ".join(told)
