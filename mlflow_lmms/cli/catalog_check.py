"""`mlflow-lmms catalog check`: what is wrong with a benchmark of one's own, line by line."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.text import Text

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json

_COLOURS = {"error": "red", "warning": "yellow"}
_WRONG = 1


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@format_option
@click.pass_context
def check(context: click.Context, /, folder: Path) -> None:
    """Check the task files of FOLDER as lmms-eval will read them, without running any of their code.

    Says what is wrong as FILE:LINE. Exit code 1 when something is; warnings alone are fine.
    """
    from mlflow_lmms.catalogue.folder_check import check_folder

    report = check_folder(folder)
    if wants_json():
        problems = [problem._asdict() for problem in report.problems]
        print_json({"ok": report.ok, "tasks": report.tasks, "groups": report.groups, "problems": problems})
    else:
        out = console()
        for problem in report.problems:
            where = f"{os.path.relpath(problem.file)}:{problem.line}"
            severity = (f"{problem.severity}: ", _COLOURS[problem.severity])
            out.print(
                Text.assemble((f"{where}: ", "bold"), severity, f"expected {problem.expected}; came {problem.came}"),
                Text.assemble("    → ", problem.remedy),
                sep="\n",
                soft_wrap=True,
            )
        wrong = sum(problem.severity == "error" for problem in report.problems)
        counted = f"{_counted(len(report.tasks), 'task')}, {_counted(len(report.groups), 'group')} in {folder}"
        warned = len(report.problems) - wrong
        out.print(f"{counted}: {wrong} wrong, {_counted(warned, 'warning')}", highlight=False)
    if not report.ok:
        context.exit(_WRONG)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
