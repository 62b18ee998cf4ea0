"""`mlflow-lmms view`: saved boards and comparisons, with all their revisions."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.cli.compare import print_comparison
from mlflow_lmms.cli.leaderboard import print_board
from mlflow_lmms.cli.output import console, format_option, moment, print_json, print_table, wants_json
from mlflow_lmms.client import Client
from mlflow_lmms.errors import InvalidRequestError


@click.group()
def view() -> None:
    """Keep boards and comparisons under a name: what they show is asked anew whenever they are opened.

    \b
    mlflow-lmms view save-board "Documents" --where suite=documents --where result=best --shared
    mlflow-lmms view save-comparison "7B against 3B" RUN RUN --task chartqa
    mlflow-lmms view open ID
    """


@view.command("list")
@click.option("--kind", type=click.Choice(["board", "comparison"]))
@click.option("--archived", is_flag=True, help="Those that were archived.")
@format_option
def list_views(kind: str | None, archived: bool) -> None:
    """Show your views, and those that are shared with everybody."""
    found = Client().views(kind, archived=archived)
    if wants_json():
        print_json(found)
        return
    columns = ("id", "kind", "name", "owner", "revision", "changed", "shared")
    rows = [
        (v["id"], v["kind"], v["name"], v["owner"], v["revision"], moment(v["created_at"]), _yes(v["view"]))
        for v in found
    ]
    print_table(columns, rows)


@view.command()
@click.argument("view_id", metavar="ID")
@click.option("--revision", type=int, help="[default: the newest]")
def show(view_id: str, revision: int | None) -> None:
    """Print what was saved, as JSON."""
    print_json(Client().view(view_id, revision))


@view.command("open")
@click.argument("view_id", metavar="ID")
@click.option("--revision", type=int, help="[default: the newest]")
@format_option
def open_view(view_id: str, revision: int | None) -> None:
    """Show the board or the comparison as it is now."""
    found = Client().open_view(view_id, revision)
    if wants_json():
        print_json(found)
        return
    out = console()
    out.print(found["name"], style="bold", markup=False, highlight=False)
    if found["view"].get("notes"):
        out.print(found["view"]["notes"], markup=False, highlight=False)
    if found["kind"] == "board":
        print_board(found["shown"], out)
        return
    print_comparison(found["shown"], out)
    if found["shown"]["missing"]:
        line = f"without results (any more): {', '.join(found['shown']['missing'])}"
        out.print(line, markup=False, highlight=False, style="dim")


@view.command()
@click.argument("name")
@click.option("--where", "where", multiple=True, metavar="ARGUMENT=VALUE", help="As in the board's address.")
@click.option("--notes", default="")
@click.option("--shared", is_flag=True, help="Show it in everybody's list.")
@format_option
def save_board(name: str, where: tuple[str, ...], notes: str, shared: bool) -> None:
    """Save a board as NAME.

    The arguments are those of the board: suite, experiment, task, model, pin, modality, category, group, tag, since,
    until, min_size, max_size, versions, result, overall, partial, flagged; some may be given several times.
    """
    query = _query(where).model_dump(mode="json", exclude_defaults=True)
    _saved(Client().save_board(name, query, notes=notes, shared=shared))


@view.command()
@click.argument("name")
@click.argument("runs", nargs=-1, required=True)
@click.option("--baseline", help="[default: the first run]")
@click.option("--task", "tasks", multiple=True, help="This task alone; may be given several times.")
@click.option("--verdict", "verdicts", multiple=True, help="Show tasks with this verdict alone.")
@click.option("--search", default="", help="Show tasks with these words in their name alone.")
@click.option("--notes", default="")
@click.option("--shared", is_flag=True, help="Show it in everybody's list.")
@format_option
def save_comparison(
    name: str,
    runs: tuple[str, ...],
    baseline: str | None,
    tasks: tuple[str, ...],
    verdicts: tuple[str, ...],
    search: str,
    notes: str,
    shared: bool,
) -> None:
    """Save a comparison of RUNS as NAME."""
    filters = {"verdicts": list(verdicts), "search": search}
    more: dict[str, Any] = {"baseline": baseline, "tasks": list(tasks), "filters": filters}
    _saved(Client().save_comparison(name, runs, **more, notes=notes, shared=shared))


@view.command()
@click.argument("view_id", metavar="ID")
@click.option("--name", help="Another name.")
@click.option("--notes", help="Other notes.")
@click.option("--shared/--private", default=None, help="Whether it stands in everybody's list.")
@click.option("--archive/--unarchive", "archived", default=None, help="Whether it is left out of lists.")
@click.option("--json", "content", help="Any fields, as a JSON object; `view show` prints them.")
@click.option("--note", default="", help="Why it changes.")
@click.option("--base", type=int, help="Refuse when there is a newer revision than this one.")
@format_option
def change(view_id: str, content: str | None, note: str, base: int | None, **fields: Any) -> None:
    """Add a revision to a view; only its owner or an administrator may. Earlier ones stay."""
    client = Client()
    newest = client.view(view_id)
    changed = newest["view"] | {name: value for name, value in fields.items() if value is not None}
    if content is not None:
        changed |= _object(content)
    _saved(client.change_view(view_id, changed, note=note, base=base or newest["revision"]))


@view.command()
@click.argument("view_id", metavar="ID")
@format_option
def history(view_id: str) -> None:
    """Show every revision of a view: who, when, why."""
    found = Client().view_history(view_id)
    if wants_json():
        print_json(found)
        return
    rows = [(r["revision"], moment(r["created_at"]), r["created_by"], r["name"], r["note"]) for r in found]
    print_table(("revision", "when", "who", "name", "note"), rows)


def _query(where: tuple[str, ...]) -> BoardQuery:
    arguments: dict[str, list[str]] = {}
    for pair in where:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidRequestError(f"--where: expected ARGUMENT=VALUE, got {pair!r}")
        arguments.setdefault(name, []).append(value)
    query = BoardQuery.from_arguments(arguments)
    if unknown := sorted(arguments.keys() - query.as_arguments().keys()):
        raise InvalidRequestError(f"--where: {', '.join(unknown)}: no such argument, or it is the default anyway")
    return query


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InvalidRequestError("--json: expected a JSON object")
    return content


def _saved(done: dict[str, Any]) -> None:
    if wants_json():
        print_json(done)
    elif done.get("made", True):
        click.echo(f"{done['id']} is at revision {done['revision']}")
    else:
        click.echo(f"{done['id']} stays at revision {done['revision']}: nothing differs")


def _yes(content: dict[str, Any]) -> str:
    return "yes" if content.get("shared") else "no"
