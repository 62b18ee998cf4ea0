"""`mlflow-lmms doctor`: what was found of each part, and what to do."""

from __future__ import annotations

import click
from rich.text import Text

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.settings import Settings

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}
_PROBLEM = 1


@click.command()
@format_option
@click.pass_context
def doctor(context: click.Context, /) -> None:
    """Check each part and say how to mend what is wrong. Exit code 1 when something is."""
    from mlflow_lmms.doctor import Finding
    from mlflow_lmms.doctor_services import examine

    findings = []
    try:
        for finding in examine(Settings.load()):
            findings.append(finding)
            if not wants_json():
                _print(*finding)
    except ConfigurationError as error:
        findings.append(Finding("settings", "problem", error.message, "correct it; `mlflow-lmms config` lists them"))
        if not wants_json():
            _print(*findings[-1])
    problems = [finding.part for finding in findings if finding.status == "problem"]
    if wants_json():
        print_json({"ok": not problems, "findings": [finding._asdict() for finding in findings]})
    else:
        console().print(f"\n{len(problems)} to mend: {', '.join(problems)}" if problems else "\nall is well")
    if problems:
        context.exit(_PROBLEM)


def _print(part: str, status: str, message: str, remedy: str) -> None:
    mark, colour = _MARKS[status]
    out = console()
    out.print(Text.assemble((f"{mark} ", colour), (f"{part:<14} ", "bold"), message), soft_wrap=True)
    if remedy:
        out.print(Text.assemble(" " * 17, ("→ ", "cyan"), remedy), soft_wrap=True)
