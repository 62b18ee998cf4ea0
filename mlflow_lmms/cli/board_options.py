"""The options of commands that show boards: what `mlflow_lmms.board_query.BoardQuery` can be asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_DATE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])

_OPTIONS = (
    click.option("--suite", help="Only results of this suite."),
    click.option("--experiment", "experiments", multiple=True, help="Only these experiments', by id."),
    click.option("--task", "tasks", multiple=True, help="Only these tasks."),
    click.option("--model", "models", multiple=True, help="Only these models, with all their versions."),
    click.option("--pin", "pinned", multiple=True, help="Put this task's column first."),
    click.option("--modality", "modalities", multiple=True, help="Only tasks of it: image, video, audio …"),
    click.option("--category", "categories", multiple=True, help="Only tasks of this category of the catalogue."),
    click.option("--group", "groups", multiple=True, help="Only tasks of this group or tag of lmms-eval."),
    click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only runs with this tag."),
    click.option("--since", type=_DATE, help="Only results recorded since then."),
    click.option("--until", type=_DATE, help="The board as it was then."),
    click.option("--min-size", type=float, help="Only models of at least so many billion parameters."),
    click.option("--max-size", type=float, help="Only models of at most so many billion parameters."),
    click.option("--versions", help="all, latest, best or @ALIAS: which versions of a model.  [default: all]"),
    click.option("--result", type=click.Choice(["latest", "best"]), help="Of several results.  [default: latest]"),
    click.option(
        "--overall",
        type=click.Choice(["win_rate", "normalised", "weighted"]),
        help="What the models are ordered by; weighted takes the weights of the suite.  [default: win_rate]",
    ),
    click.option("--partial", is_flag=True, help="Rank results over a part of a task's documents too."),
    click.option("--flagged", is_flag=True, help="Rank results too whose warnings speak against it."),
    click.option("--costs", is_flag=True, help="Show GPU-hours and tokens, and which models nobody beats for less."),
)


def board_options(command: Command) -> Command:
    """Give a command the options; `asked_of` turns their values into what `Client.leaderboard` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def asked_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a query that were given."""
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    return {name: value.timestamp() if isinstance(value, datetime) else value for name, value in given.items()}
