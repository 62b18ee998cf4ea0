"""Tables as LaTeX (package booktabs); nothing in a name is taken for a command. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow_lmms.report.sheet import Cell, Sheet

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"\textquotedbl{}", "–": "--", "…": r"\dots{}",
    "↓": r"$\downarrow$", "·": r"$\cdot$", "−": "$-$", "→": r"$\to$", "-": "{-}",
}  # fmt: skip
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")


def latex_text(text: str) -> str:
    """Text that LaTeX typesets as it is, on one line."""
    return "".join(_SPECIAL.get(char, char) for char in _BLANKS.sub(" ", text))


def latex_sheet(sheet: Sheet) -> str:
    """A whole sheet as a ``table`` environment."""
    right = [*sheet.numbers, *([False] * (len(sheet.columns) - len(sheet.numbers)))]
    lines = [
        r"% \usepackage[T1]{fontenc} \usepackage{booktabs}; letters beyond Latin take XeLaTeX or LuaLaTeX",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(sheet.title)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if aligned else 'l' for aligned in right)}}}",
        r"\toprule",
        _row([latex_text(column) for column in sheet.columns]),
        r"\midrule",
        *(_row([_cell(cell) for cell in row]) for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {latex_text(remark)}\par}}" for remark in sheet.remarks),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    return rf"\textbf{{{text}}}" if cell.strong else text


def _row(cells: Sequence[str]) -> str:
    # A row that begins with [ or * would be read as an option of the line break before it.
    return "{}" + " & ".join(cells) + r" \\"
