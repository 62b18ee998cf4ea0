"""Published scores as a table in CSV, JSON or YAML, checked row by row. Pure but for the one file read.

Owns the columns: model, task, score and source; metric, date and url where they are known.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.importing.json_files import check_beginning, open_regular
from mlflow_lmms.importing.refused_file import RefusedFileError

COLUMNS = ("model", "task", "metric", "score", "source", "date", "url")
_NEEDED = ("model", "task", "score", "source")
_SIZE_LIMIT = 5_000_000
_MOST_ROWS = 50_000
_TASK = re.compile(r"[^\s,/\\][^,/\\]{0,249}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,250}")
_URL = re.compile(r"https?://[^\s\x00-\x1f]{1,2000}")


@dataclass(frozen=True)
class ReportedScore:
    """One published score; `line` is where it stands in the file."""

    line: int
    model: str
    task: str
    metric: str
    score: float
    source: str
    date: date | None = None
    url: str | None = None

    @property
    def published_at(self) -> float | None:
        """The date as seconds, where it is known."""
        return None if self.date is None else datetime.combine(self.date, datetime.min.time(), UTC).timestamp()


@dataclass(frozen=True)
class ReportedTable:
    """The sound rows, and what is wrong with the others, by line."""

    scores: tuple[ReportedScore, ...]
    problems: tuple[tuple[int, str], ...]


def read_reported(path: Path) -> ReportedTable:
    """Read a table of published scores.

    Raises:
        RefusedFileError: the file is no such table at all.
    """
    with open_regular(path) as handle:
        content = handle.read(_SIZE_LIMIT + 1)
    if len(content) > _SIZE_LIMIT:
        raise RefusedFileError(path, f"it is larger than {_SIZE_LIMIT // 1_000_000} MB, which no such table is")
    check_beginning(path, content[:4])
    try:
        text = content.decode("utf-8")
        rows = list(_rows(path, text))
    except UnicodeDecodeError as error:
        raise RefusedFileError(path, f"it is not UTF-8 (byte {error.start})") from None
    except (csv.Error, ValueError, yaml.YAMLError, RecursionError) as error:
        raise RefusedFileError(path, f"it cannot be read: {error}") from None
    if not rows:
        raise RefusedFileError(path, f"it has no rows; expected {', '.join(COLUMNS)}")
    if len(rows) > _MOST_ROWS:
        raise RefusedFileError(path, f"it has more than {_MOST_ROWS:,} rows")
    return _checked(rows)


def _checked(rows: list[tuple[int, Any]]) -> ReportedTable:
    scores: dict[tuple[str, ...], ReportedScore] = {}
    problems = []
    for line, row in rows:
        try:
            score = _score(line, row)
            key = (score.model, score.source, score.task, score.metric)
            if key in scores:
                raise InvalidRequestError(f"line {scores[key].line} has a score of the same model, task and source")
            scores[key] = score
        except InvalidRequestError as error:
            problems.append((line, str(error)))
    return ReportedTable(tuple(scores.values()), tuple(problems))


def _score(line: int, row: Any) -> ReportedScore:
    if not isinstance(row, Mapping):
        raise InvalidRequestError(f"expected an object with {', '.join(_NEEDED)}, got {type(row).__name__}")
    told = {str(name).strip().lower(): value for name, value in row.items() if value not in (None, "")}
    if unknown := sorted(told.keys() - set(COLUMNS)):
        raise InvalidRequestError(f"no such column: {', '.join(unknown)[:200]}; there are {', '.join(COLUMNS)}")
    if missing := [name for name in _NEEDED if name not in told]:
        raise InvalidRequestError(f"{', '.join(missing)} missing")
    return ReportedScore(
        line=line,
        model=_matching(told, "model", _TEXT, "a name of at most 250 characters"),
        task=_matching(told, "task", _TASK, "a task's name"),
        metric=_matching({"metric": "score", **told}, "metric", _TEXT, "a metric's name"),
        score=_number(told["score"]),
        source=_matching(told, "source", _TEXT, "where it was published, in at most 250 characters"),
        date=_date(told.get("date")),
        url=_matching(told, "url", _URL, "an http or https address") if "url" in told else None,
    )


def _matching(row: Mapping[str, Any], name: str, pattern: re.Pattern[str], expected: str) -> str:
    text = str(row[name]).strip()
    if isinstance(row[name], dict | list) or not pattern.fullmatch(text):
        raise InvalidRequestError(f"{name}: expected {expected}, got {text[:80]!r}")
    return text


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidRequestError(f"score: expected a number in the benchmark's own units, got {str(value)[:80]!r}")
    return number


def _date(value: Any) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(str(value).strip())
    except ValueError:
        raise InvalidRequestError(f"date: expected YYYY-MM-DD, got {str(value)[:80]!r}") from None


def _rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() == ".json":
        return _json_rows(text)
    return _yaml_rows(text) if path.suffix.lower() in (".yaml", ".yml") else _csv_rows(text)


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    while True:
        line = reader.line_num + 1
        cells = next(reader, None)
        if cells is None:
            return
        if len(cells) > len(header):
            yield line, {**dict(zip(header, cells, strict=False)), f"column {len(header) + 1}": cells[len(header)]}
        elif cells:
            yield line, dict(zip(header, cells, strict=False))


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    """The elements of one list, each with its line, which `json.loads` does not tell."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    if not isinstance(json.loads(text), list):
        raise ValueError("expected a list of objects")
    at = text.index("[") + 1
    while True:
        match = between.match(text, at)
        at = match.end() if match else at
        if text[at] == "]":
            return
        row, end = decoder.raw_decode(text, at)
        yield text.count("\n", 0, at) + 1, row
        at = end


def _yaml_rows(text: str) -> Iterator[tuple[int, Any]]:
    """Rows out of the nodes, unexpanded: their lines are there, and an alias cannot blow up."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.SequenceNode):
        raise ValueError("expected a list of mappings")
    for node in root.value:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            yield line, None
            continue
        yield (
            line,
            {str(key.value): value.value if isinstance(value, yaml.ScalarNode) else [] for key, value in node.value},
        )
