"""Tables as GitHub-flavoured Markdown; nothing in a name is taken for markup. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow_lmms.report.sheet import Cell, Sheet

_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
#: What begins a heading, list or quotation.
_BEGIN = re.compile(r"^(?:>|(?:#{1,6}|[+-]|\d+[.)])(?=\s|$))")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = _BLANKS.sub(" ", text).replace("&", "&amp;").replace("<", "&lt;")
    return _BEGIN.sub(_begun, _MARKUP.sub(r"\\\1", line))


def _begun(found: re.Match[str]) -> str:
    return f"{found[0][:-1]}\\{found[0][-1]}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: Sequence[bool] = ()) -> str:
    """A pipe table; columns of `numbers` stand right."""
    right = [*numbers, *([False] * (len(columns) - len(numbers)))]
    lines = [
        _row([markdown_text(column) for column in columns]),
        _row(["---:" if aligned else "---" for aligned in right]),
        *(_row([_cell(cell) for cell in row]) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def markdown_sheet(sheet: Sheet) -> str:
    """A whole sheet: title, table, remarks."""
    parts = [f"## {markdown_text(sheet.title)}\n", markdown_table(sheet.columns, sheet.rows, sheet.numbers)]
    parts += ["".join(f"- {markdown_text(remark)}\n" for remark in sheet.remarks)] if sheet.remarks else []
    return "\n".join(parts)


def _cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    return f"**{text}**" if cell.strong and text.strip() else text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
