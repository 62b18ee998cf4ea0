"""Secrets taken out of everything that an import stores. Pure.

Owns which fields are secret by their name alone; a secret's shape in a text is the scrubber's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.model_arguments import refuse_secrets
from mlflow_lmms.scrubbing import MASK, Scrubber

_SECRET_VARIABLE = re.compile(r"(?:token|secret|passw(?:or)?d|api_?key|access_?key)$", re.IGNORECASE)
_PUBLIC = ("", "true", "false", "none", "null")


def scrubber_for_files(environ: Mapping[str, str] = os.environ) -> Scrubber:
    """A scrubber that also knows this process's own secrets, which the files may hold: they were often made here."""
    return Scrubber(value for name, value in environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= 8)


def scrub_tree(scrubber: Scrubber, value: Any) -> Any:
    """Return a JSON value with every secret masked, by its shape or by the name of its field."""
    if isinstance(value, str):
        return valid(scrubber.scrub(value))
    if isinstance(value, list):
        return [scrub_tree(scrubber, item) for item in value]
    if isinstance(value, dict):
        return {valid(scrubber.scrub(key)): _scrub_field(scrubber, key, item) for key, item in value.items()}
    return value


def _scrub_field(scrubber: Scrubber, name: str, value: Any) -> Any:
    if isinstance(value, str) and is_secret(name, value):
        return MASK
    return scrub_tree(scrubber, value)


def is_secret(name: str, value: str) -> bool:
    """Whether an argument of this name and value is a secret."""
    if value.strip().lower() in _PUBLIC:
        return False
    try:
        refuse_secrets({name: value})
    except InvalidRequestError:
        return True
    return False


def valid(text: str) -> str:
    """Return text that UTF-8 can hold: a file may have half a surrogate pair, or a NUL, which databases refuse."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "�").encode("utf-8", errors="replace").decode("utf-8")
