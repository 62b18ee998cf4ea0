"""Results as CSV, one row for each score or difference, with every number in full. Pure.

A spreadsheet takes a text that begins with ``=``, ``+``, ``-`` or ``@`` for a formula and runs it: such a text, which
can come from a model's or a task's name, gets an apostrophe before it. Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_lmms.report.records import Records

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_CELL = ("value", "low", "high", "n", "rank", "rank_first", "rank_last", "paired", "note", "flagged", "run_id")
_OVERALL = ("overall", "overall_low", "overall_high", "gpu_hours", "tokens")
_BOARD = (
    "model",
    "overall_rank",
    "win_rate",
    *_OVERALL,
    "task",
    "metric",
    "filter",
    "higher_is_better",
    *_CELL,
    "source",
)
_DIFFERENCE = (
    "value", "difference", "low", "high", "gain", "p_value", "adjusted", "wins", "losses", "ties", "n", "detectable",
    "needed", "method", "verdict", "reason", "flagged",
)  # fmt: skip
_COMPARISON = ("task", "metric", "filter", "higher_is_better", "baseline", "run_id", "model", *_DIFFERENCE)


def board_csv(board: Mapping[str, Any]) -> str:
    """What `Client.leaderboard` returns: a row for each score, published ones with their source."""
    columns = {column["task"]: column for column in board["columns"]}
    return _text(_BOARD, (record for row in board["rows"] for record in _board_records(row, columns)))


def comparison_csv(found: Mapping[str, Any]) -> str:
    """What `Client.compare` returns: a row for each task and candidate."""
    records = (
        {
            **{key: task[key] for key in ("task", "metric", "filter", "higher_is_better")},
            "baseline": task["baseline"]["value"],
            "run_id": run_id,
            "model": found["models"][run_id],
            **{key: told[key] for key in _DIFFERENCE},
            "flagged": " ".join(told["flagged"] or ()),
        }
        for task in found["tasks"]
        for run_id, told in task["candidates"].items()
    )
    return _text(_COMPARISON, records)


def records_csv(records: Records) -> str:
    """Any records as they are."""
    return _text(records.columns, records.rows)


def _board_records(row: Mapping[str, Any], columns: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    about = {"model": row["model"], "overall_rank": row["rank"], "win_rate": row["win_rate"], **_overall(row)}
    for task, cell in sorted(row["cells"].items()):
        first, last = cell["rank_interval"] or (None, None)
        yield {
            **about,
            "task": task,
            **{key: columns[task][key] for key in ("metric", "filter", "higher_is_better")},
            **{key: cell[key] for key in _CELL if key in cell},
            "rank_first": first,
            "rank_last": last,
            "flagged": " ".join(cell["flagged"]),
            "source": "measured",
        }
    for task, published in sorted(row["reported"].items()):
        for score in published:
            source = f"reported by {score['source']}" if score["source"] else "reported"
            told = {key: score[key] for key in ("metric", "filter", "value", "run_id")}
            yield {**about, "task": task, **told, "source": source}


def _overall(row: Mapping[str, Any]) -> dict[str, Any]:
    told, cost = row.get("overall") or {}, row.get("cost") or {}
    found = {"overall": told.get("value"), "overall_low": told.get("low"), "overall_high": told.get("high")}
    return found | {key: cost.get(key) for key in ("gpu_hours", "tokens")}


def _text(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_plain(record.get(column)) for column in columns] for record in records)
    return out.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
