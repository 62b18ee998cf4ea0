"""Bodies and query strings of API calls, checked; every problem names its field."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.problems import problems

Body = TypeVar("Body", bound=BaseModel)


def json_object() -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        content = request.get_json(force=True, silent=True)
    except RecursionError:
        raise InvalidRequestError("the JSON of the body is nested too deeply") from None
    if not isinstance(content, dict):
        came = f"{type(content).__name__}" if content is not None else "no JSON"
        raise InvalidRequestError(f"expected a JSON object as the body, got {came}")
    return content


def parse_body(model: type[Body]) -> Body:
    """The body as `model`.

    Raises:
        InvalidRequestError: naming each field that is wrong.
    """
    try:
        return model.model_validate(json_object())
    except ValidationError as error:
        raise InvalidRequestError(problems(error, "body")) from None


def whole_number(name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query string.

    Raises:
        InvalidRequestError: it is no number or out of bounds.
    """
    text = request.args.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or not low <= int(text) <= high:
        raise InvalidRequestError(f"{name}: expected a whole number from {low} to {high}, got {text[:80]!r}")
    return int(text)


def seconds(name: str) -> float | None:
    """A time in unix seconds of the query string, None where it is not given.

    Raises:
        InvalidRequestError: it is no number, or none that a clock shows.
    """
    text = request.args.get(name)
    if text is None or text == "":
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InvalidRequestError(f"{name}: expected a time in unix seconds, got {text[:80]!r}")
    return found


def switch(name: str) -> bool:
    """A switch of the query string: ``1`` or ``0``.

    Raises:
        InvalidRequestError: it is neither.
    """
    text = request.args.get(name, "0")
    if text not in ("0", "1", ""):
        raise InvalidRequestError(f"{name}: expected 0 or 1, got {text[:80]!r}")
    return text == "1"


def short_text(name: str, longest: int = 250) -> str | None:
    """A text of the query string; None where it is not given, which an empty one is not.

    Raises:
        InvalidRequestError: it is longer, or holds a character that no database keeps.
    """
    text = request.args.get(name)
    if text is not None and (len(text) > longest or "\x00" in text):
        raise InvalidRequestError(f"{name}: expected at most {longest} characters without a null, got {text[:80]!r}")
    return text
