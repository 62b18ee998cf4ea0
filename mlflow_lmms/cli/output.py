"""How commands print: a table for people or JSON for programs, on standard output; errors on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])
_PLAIN_WIDTH = 200


@dataclass
class Output:
    """What the command line was asked for; filled by the options below."""

    json: bool = False
    format: str = "table"


def format_option(command: Command) -> Command:
    """Give a command `--format table|json`; it reads the choice with `wants_json`."""
    return _format("table", "json", told="Text for people or JSON for programs.")(command)


def document_format_option(*documents: str) -> Callable[[Command], Command]:
    """Give a command `--format` with documents besides; it reads the choice with `wanted_format`."""
    return _format("table", "json", *documents, told="Text for people, JSON for programs, or a document.")


def _format(*choices: str, told: str) -> Callable[[Command], Command]:
    return click.option(
        "--format",
        type=click.Choice(choices),
        default="table",
        show_default=True,
        expose_value=False,
        is_eager=True,
        callback=_remember,
        help=told,
    )


def _remember(context: click.Context, _parameter: click.Parameter, value: str) -> None:
    output = context.ensure_object(Output)
    output.json, output.format = value == "json", value


def wanted_format() -> str:
    """What the running command was asked for: ``table``, ``json`` or one of its documents."""
    return click.get_current_context().ensure_object(Output).format


def wants_json() -> bool:
    """Whether the running command was asked for JSON."""
    return click.get_current_context().ensure_object(Output).json


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def print_error(output: Output, kind: str, message: str, code: int) -> None:
    """Print what went wrong on standard error, as the API's error object where JSON was asked for."""
    if output.json:
        click.echo(json.dumps({"error": {"class": kind, "message": message, "exit_code": code}}), err=True)
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)


def console() -> Console:
    """A console on standard output; without a terminal it does not fold at 80 columns."""
    probe = Console()
    return probe if probe.is_terminal else Console(width=_PLAIN_WIDTH)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows as a table; a column whose values are all numbers stands right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[at], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(shown(value) for value in row))
    console().print(table)


def new_table(*columns: str) -> Table:
    """An empty table whose cells fold rather than being cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def shown(value: Any) -> str:
    """One value as text for a table cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return escape(str(value))


def moment(seconds: float | None) -> str:
    """A point in time in the reader's own time zone."""
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def duration(seconds: float | None) -> str:
    """A length of time: seconds, or minutes and hours."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
