"""Reads rows of `lmms_scores`, and of the tables that copy its columns, as scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row

from mlflow_lmms.score import Score
from mlflow_lmms.sql.schema import ScoreRow
from mlflow_lmms.sql.schema_boards import BoardCellRow

#: The fields of a score, in the order of `Score`; the tables call them the same.
FIELDS = tuple(Score.__dataclass_fields__)
_FINGERPRINT, _WARNINGS = FIELDS.index("fingerprint"), FIELDS.index("warnings")


def score_columns(table: type[ScoreRow | BoardCellRow]) -> list[ColumnElement[Any]]:
    """What to select for `score_of`."""
    return [getattr(table, name) for name in FIELDS]


def score_of(row: Row[Any] | Sequence[Any]) -> Score:
    """The score of a row that begins with `score_columns`."""
    values = list(row[: len(FIELDS)])
    values[_FINGERPRINT], values[_WARNINGS] = _object(values[_FINGERPRINT]), _names(values[_WARNINGS])
    return Score(*values)


@lru_cache(maxsize=20_000)
def _object(text: str) -> dict[str, Any]:
    """Shared by all results that are made in the same way: nobody changes a score's fingerprint."""
    content: dict[str, Any] = json.loads(text)
    return content


@lru_cache(maxsize=2_000)
def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
