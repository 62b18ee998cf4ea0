"""`mlflow-lmms suite`: named sets of tasks, kept on the server with all their revisions."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlflow_lmms.cli.output import format_option, moment, print_json, print_table, wants_json
from mlflow_lmms.client import Client
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.plain_yaml import SIZE_LIMIT
from mlflow_lmms.suite import Suite


@click.group()
def suite() -> None:
    """Keep named, versioned sets of tasks: metric, weight, gate margin and slices of each.

    \b
    mlflow-lmms suite put documents.yaml --note "more charts"
    mlflow-lmms submit --model models:/my-model/3 --suite documents
    """


@suite.command("list")
@format_option
def list_suites() -> None:
    """Show every suite with its newest revision."""
    found = Client().suites()
    if wants_json():
        print_json(found)
        return
    columns = ("suite", "revision", "tasks", "author", "changed", "note")
    print_table(
        columns,
        [
            (s["name"], s["revision"], len(s["suite"]["tasks"]), s["author"], moment(s["created_at"]), s["note"])
            for s in found
        ],
    )


@suite.command()
@click.argument("name")
@click.option("--revision", type=int, help="[default: the newest]")
@format_option
def show(name: str, revision: int | None) -> None:
    """Show one revision of a suite: its tasks and what is set for each."""
    found = Client().suite(name, revision)
    if wants_json():
        print_json(found)
        return
    content = Suite.parse(found["suite"])
    who = found["created_by"] or "–"
    click.echo(f"{content.name}, revision {found['revision']}, {moment(found['created_at'])} by {who}")
    for line in (content.description, found["note"] and f"note: {found['note']}"):
        if line:
            click.echo(line)
    if content.errored is not None:
        limit = content.errored.fail_above
        share = "" if limit is None else f"; a task fails when more than {limit:.0%} of its samples are errored"
        click.echo(f"errored samples: {content.errored.policy}{share}")
    print_table(
        ("task", "primary metric", "weight", "margin", "slices"),
        [(t.task, t.primary, t.weight, t.margin, ", ".join(t.dimensions) or None) for t in content.tasks],
    )


@suite.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--note", default="", help="Why it changes.")
@click.option("--base", type=int, help="Refuse when there is a newer revision than this one.")
@format_option
def put(file: Path, note: str, base: int | None) -> None:
    """Make a suite of a YAML FILE (- for standard input), or add a revision to it.

    Everybody who is signed in may make one; only its author or an administrator may change it. A file that says what
    the newest revision says adds none.
    """
    done = Client().put_suite(Suite.from_yaml(_read(file), str(file)), note=note, base=base)
    if wants_json():
        print_json(done)
    elif done["made"]:
        click.echo(f"{done['name']} is at revision {done['revision']}")
    else:
        click.echo(f"{done['name']} stays at revision {done['revision']}: nothing differs")


@suite.command()
@click.argument("name")
@click.option("--revision", type=int, help="[default: the newest]")
def export(name: str, revision: int | None) -> None:
    """Print a suite as the YAML that `put` takes."""
    click.echo(Client().suite(name, revision)["yaml"], nl=False)


@suite.command()
@click.argument("name")
@format_option
def history(name: str) -> None:
    """Show every revision of a suite: who, when, why."""
    found = Client().suite_history(name)
    if wants_json():
        print_json(found)
        return
    columns = ("revision", "when", "who", "tasks", "note")
    rows = [
        (r["revision"], moment(r["created_at"]), r["created_by"], len(r["suite"]["tasks"]), r["note"]) for r in found
    ]
    print_table(columns, rows)


def _read(file: Path) -> str:
    try:
        if str(file) == "-":
            return sys.stdin.read(SIZE_LIMIT + 1)
        with file.open(encoding="utf-8") as opened:
            return opened.read(SIZE_LIMIT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file} cannot be read as a text: {error}") from None
