"""What the API finds as flat records, one for each score, group, point, change or document. Pure.

Data frames and CSV are made of these, so that a notebook and a spreadsheet show the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GROUP = ("name", "n", "score", "low", "high", "judged")
_GAP = ("value", "low", "high", "p_value", "adjusted")
_POINT = ("model", "version", "run_id", "recorded_at", "value", "low", "high", "n", "suite_revision", "breaks")
_SIDES = ("baseline_answer", "candidate_answer", "baseline_score", "candidate_score")
FLIP_COLUMNS = ("kind", "document", "input", "target", *_SIDES)
_CHANGE = ("verdict", "difference", "low", "high", "adjusted", "reason")


@dataclass(frozen=True)
class Records:
    """Rows of plain values; every row has every column."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]


def slice_records(found: Mapping[str, Any]) -> Records:
    """What `Client.slices` returns: a row for each group; ``rest_…`` and ``best_…`` are its gaps, or their change."""
    gaps = tuple(f"{to}_{name}" for to in ("rest", "best") for name in _GAP)
    rows = tuple(
        {
            "task": told["task"],
            "dimension": dimension["name"],
            **{name: group[name] for name in _GROUP},
            **_prefixed("rest", group["to_rest"], _GAP),
            **_prefixed("best", group["to_best"], _GAP),
        }
        for told in found["tasks"]
        for dimension in told["dimensions"]
        for group in dimension["groups"]
    )
    return Records(("task", "dimension", *_GROUP, *gaps), rows)


def trend_records(found: Mapping[str, Any]) -> Records:
    """What `Client.trend` returns: a row for each point; ``change_…`` is its test against the one before."""
    rows = tuple(
        {
            "task": told["task"],
            "metric": told["metric"],
            **{name: point[name] for name in _POINT},
            **_prefixed("change", point["change"], _CHANGE),
        }
        for told in found["tasks"]
        for point in told["points"]
    )
    return Records(("task", "metric", *_POINT, *(f"change_{name}" for name in _CHANGE)), rows)


def change_records(found: Mapping[str, Any]) -> Records:
    """What `Client.changes` returns: a row for each model and task."""
    side = ("model", "run_id", "value")
    about = ("model", "task", "metric", "filter", "higher_is_better", "verdict")
    rows = tuple(
        {
            **{name: change[name] for name in about},
            **_prefixed("before", change["before"], side),
            **_prefixed("after", change["after"], side),
            **{name: (change["difference"] or {}).get(name) for name in _CHANGE[1:]},
        }
        for change in found["changes"]
    )
    return Records((*about, *(f"{when}_{name}" for when in ("before", "after") for name in side), *_CHANGE[1:]), rows)


def flip_records(page: Mapping[str, Any]) -> Records:
    """What `Client.flips` returns: a row for each document, with both answers and scores."""
    scored = f"{page['metric']}:{page['filter']}"
    rows = []
    for flip in page["flips"]:
        one, two = flip["baseline"], flip["candidate"]
        told = (flip["kind"], one["doc_hash"] or one["row_key"], one["input"], one["target"])
        answers = (answer(one, page["filter"]), answer(two, page["filter"]))
        scores = (one["scores"].get(scored), two["scores"].get(scored))
        rows.append(dict(zip(FLIP_COLUMNS, (*told, *answers, *scores), strict=True)))
    return Records(FLIP_COLUMNS, tuple(rows))


def answer(sample: Mapping[str, Any], filter_name: str) -> str:
    """What a model answered: the filtered answer, else all that it said."""
    return str(sample["filtered"].get(filter_name) or "\n".join(sample["responses"]))


def setting_records(found: Mapping[str, Any]) -> Records:
    """What `Client.config_diff` returns: a row for each setting, a column for each run."""
    rows = tuple({"section": s["section"], "name": s["name"], **s["values"]} for s in found["settings"])
    return Records(("section", "name", *found["models"]), rows)


def _prefixed(prefix: str, told: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {f"{prefix}_{name}": None if told is None else told[name] for name in names}
