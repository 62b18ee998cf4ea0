"""Slices, trends, changes, flips and settings as documents: every name stays a name, and nothing is lost."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
import report_values as values
from report_values import HOSTILE

from mlflow_lmms.report import finding_sheets, records
from mlflow_lmms.report.csv_text import records_csv
from mlflow_lmms.report.latex import latex_sheet
from mlflow_lmms.report.markdown import markdown_sheet
from mlflow_lmms.report.records import Records
from mlflow_lmms.report.sheet import Sheet

_GAP = {"value": -0.1, "low": -0.2, "high": -0.01, "p_value": 0.01, "adjusted": 0.03}
_ABOUT = {"task": HOSTILE, "metric": "acc", "filter": "none", "higher_is_better": False}


def group(name: str, **fields: Any) -> dict[str, Any]:
    made = {"name": name, "n": 40, "score": 0.5, "low": 0.4, "high": 0.6, "judged": True, "to_rest": _GAP}
    return made | {"to_best": None} | fields


def slices(*, change: bool = False) -> dict[str, Any]:
    groups = [group(HOSTILE), group("few", n=3, judged=False, to_rest=None, low=None, high=None)]
    told = _ABOUT | {"dimensions": [{"name": HOSTILE, "groups": groups}], "reason": "unlike documents"}
    sides = {"baseline": {"model": HOSTILE}, "candidate": {"model": "b"}} if change else {"model": HOSTILE}
    return {"tasks": [told | sides]}


def trend() -> dict[str, Any]:
    point = {
        "model": f"{HOSTILE} v1", "version": 1, "run_id": "r", "recorded_at": 0.0, "value": 0.5, "low": 0.4,
        "high": 0.6, "n": 40, "suite": HOSTILE, "suite_revision": 2, "breaks": None, "flagged": ["empty_responses"],
        "change": None,
    }  # fmt: skip
    points = [point, point | {"change": values.difference("worse"), "flagged": [], "suite_revision": None}]
    return {"model": HOSTILE, "tasks": [_ABOUT | {"points": points}]}


def changes() -> dict[str, Any]:
    side = {"model": HOSTILE, "run_id": "r", "value": 0.5}
    change = _ABOUT | {"model": HOSTILE, "before": side, "after": side, "verdict": "worse"}
    known = change | {"difference": values.difference("worse")}
    new = change | {"before": None, "difference": None, "verdict": "new"}
    return {"since": 0.0, "until": 1.0, "truncated": True, "changes": [known, new]}


def flips() -> dict[str, Any]:
    side = {
        "index": 0, "input": HOSTILE, "target": HOSTILE, "filtered": {"none": HOSTILE}, "responses": [HOSTILE],
        "scores": {"acc:none": 1.0}, "doc_hash": "d", "row_key": None,
    }  # fmt: skip
    flip = {"kind": "right_to_wrong", "baseline": side, "candidate": side | {"filtered": {}, "scores": {}}}
    counts = {"documents": {"shared": 9}, "counts": {"right_to_wrong": 1}, "doubts": HOSTILE}
    return _ABOUT | counts | {"flips": [flip]}


def settings() -> dict[str, Any]:
    told = {"section": "param", "name": HOSTILE, "values": {"a": HOSTILE, "b": None}}
    return {"models": {"a": HOSTILE, "b": "two"}, "settings": [told], "equal": 3}


FINDINGS = [
    (records.slice_records(slices()), finding_sheets.slice_sheets(slices())),
    (records.slice_records(slices(change=True)), finding_sheets.slice_sheets(slices(change=True))),
    (records.trend_records(trend()), finding_sheets.trend_sheets(trend())),
    (records.change_records(changes()), [finding_sheets.changes_sheet(changes())]),
    (records.flip_records(flips()), [finding_sheets.flips_sheet(flips())]),
    (records.setting_records(settings()), [finding_sheets.settings_sheet(settings())]),
]
WHICH = ["slices", "gains", "trend", "changes", "flips", "settings"]


@pytest.mark.parametrize(("found", "sheets"), FINDINGS, ids=WHICH)
def test_a_csv_has_every_row_and_no_formula(found: Records, sheets: Sequence[Sheet]) -> None:
    table = list(csv.reader(io.StringIO(records_csv(found))))
    assert len(table) == len(found.rows) + 1 == sum(len(sheet.rows) for sheet in sheets) + 1
    assert {len(row) for row in table} == {len(found.columns)}
    assert all(set(row) == set(found.columns) for row in found.rows)
    assert not [cell for row in table for cell in row if cell.startswith("=")]
    assert any(cell.startswith("'=") for row in table for cell in row)


@pytest.mark.parametrize(("found", "sheets"), FINDINGS, ids=WHICH)
def test_no_name_is_markup(found: Records, sheets: Sequence[Sheet]) -> None:
    for sheet in sheets:
        lines = [line for line in markdown_sheet(sheet).splitlines() if line.startswith("|")]
        assert len(lines) == len(sheet.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(sheet.columns) + 1}
        assert "<script" not in markdown_sheet(sheet)
        assert r"\input{" not in latex_sheet(sheet)
        assert latex_sheet(sheet).count(r" \\") == len(sheet.rows) + 1


def test_what_cannot_be_judged_says_so_and_what_is_beyond_chance_stands_out() -> None:
    (sheet,) = finding_sheets.slice_sheets(slices())
    assert [row[3].text for row in sheet.rows] == ["-0.100 [-0.200, -0.010]", "too few to judge"]
    assert [row[3].strong for row in sheet.rows] == [True, False]
    (sheet,) = finding_sheets.slice_sheets(slices(change=True))
    assert sheet.rows[0][2].text == "+0.500 [+0.400, +0.600]"
    assert sheet.remarks[0] == "unlike documents"
    (sheet,) = finding_sheets.trend_sheets(trend())
    assert [row[6].text for row in sheet.rows] == ["empty responses", "worse"]
    assert [row[2].text for row in sheet.rows] == [f"{HOSTILE} r2", HOSTILE]
    sheet = finding_sheets.changes_sheet(changes())
    assert sheet.rows[1][3].text == "–" and sheet.rows[1][7].text == "new"
    assert "shorter period" in sheet.remarks[-1]
