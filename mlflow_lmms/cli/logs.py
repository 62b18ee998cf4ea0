"""`mlflow-lmms logs`: an evaluation's log, as far as it goes or live."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from mlflow_lmms.cli.output import format_option, print_json, wants_json
from mlflow_lmms.client import Client

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_COLOURS = {"WARNING": "yellow", "ERROR": "red", "DEBUG": "bright_black"}


@click.command()
@click.argument("run_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until the evaluation ends.")
@click.option("--level", type=click.Choice(_LEVELS, case_sensitive=False), help="Only this level and worse.")
@click.option("--search", help="Only lines with this text.")
@format_option
def logs(run_id: str, follow: bool, level: str | None, search: str | None) -> None:
    """Show the log of an evaluation; with --format json one object (with --follow: one a line)."""
    client = Client()
    level = level.upper() if level else None
    if not follow:
        lines = client.log(run_id, level=level, search=search)
        if wants_json():
            print_json(lines)
        else:
            for line in lines:
                click.echo(_text(line))
        return
    client.evaluation(run_id)  # an unknown run is an error, not an endless wait
    for event in client.events(run_id):
        if event["kind"] != "log":
            continue
        for line in event["data"]["lines"]:
            if _wanted(line, level, search):
                click.echo(_json_line(line) if wants_json() else _text(line))


def _wanted(line: dict[str, Any], level: str | None, search: str | None) -> bool:
    if level is not None and _rank(line["level"]) < _rank(level):
        return False
    return search is None or search.lower() in line["message"].lower()


def _rank(level: str) -> int:
    return _LEVELS.index(level) if level in _LEVELS else _LEVELS.index("INFO")


def _json_line(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False)


def _text(line: dict[str, Any]) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(line["time"]))
    text = f"{when} {line['level']:<7} {line.get('phase') or '–':<10} {line['message']}"
    return click.style(text, fg=_COLOURS[line["level"]]) if line["level"] in _COLOURS else text
