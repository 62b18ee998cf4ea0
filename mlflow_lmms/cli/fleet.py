"""`mlflow-lmms fleet`: boxes, GPUs, leases and queue; what admins do with boxes and quotas; who used how much."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.live import Live

from mlflow_lmms.cli.fleet_tables import fleet_tables
from mlflow_lmms.cli.output import console, duration, format_option, print_json, print_table, wants_json
from mlflow_lmms.client import Client
from mlflow_lmms.errors import InvalidRequestError

_WATCH_S = 2.0
_CHANGED = {
    "pause": "paused: it takes no new work, what runs there finishes",
    "drain": "drained: it takes no new work, what runs there goes on elsewhere",
    "resume": "open again",
}


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until Ctrl-C.")
@format_option
@click.pass_context
def fleet(context: click.Context, as_json: bool, watch: bool) -> None:
    """Show boxes, GPUs with who holds them, the queue with the reason of each wait, and reservations."""
    if context.invoked_subcommand is not None:
        return
    client = Client()
    if as_json or wants_json():
        print_json(client.fleet())
        return
    out = console()
    if watch and out.is_terminal:
        _watch(client, out)
    out.print(fleet_tables(client.fleet()))
    while watch:
        time.sleep(_WATCH_S)
        out.print(fleet_tables(client.fleet()))


def _watch(client: Client, out: Console) -> NoReturn:
    """Draw the fleet on the whole screen, until Ctrl-C."""
    with Live(fleet_tables(client.fleet()), console=out, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(_WATCH_S)
            live.update(fleet_tables(client.fleet()), refresh=True)


def _change(change: str, box: str, reason: str) -> None:
    answer = Client().change_box(box, change, reason=reason)
    if wants_json():
        print_json(answer)
        return
    console().print(f"{box} is {_CHANGED[change]}", highlight=False, markup=False)


@fleet.command()
@click.argument("box")
@click.option("--reason", default="", help="Shown to those whose work waits.")
@format_option
def pause(box: str, reason: str) -> None:
    """Give a box no new work; what runs there finishes."""
    _change("pause", box, reason)


@fleet.command()
@click.argument("box")
@click.option("--reason", default="", help="Shown to those whose work waits.")
@format_option
def drain(box: str, reason: str) -> None:
    """Empty a box: what runs there is given back and goes on elsewhere from where it was."""
    _change("drain", box, reason)


@fleet.command()
@click.argument("box")
@click.option("--reason", default="", help="For the record.")
@format_option
def resume(box: str, reason: str) -> None:
    """Let a paused or drained box take work again."""
    _change("resume", box, reason)


@fleet.command()
@click.argument("box")
@format_option
def forget(box: str) -> None:
    """Drop a box that will not come back, so that nothing waits for it."""
    answer = Client().forget_box(box)
    if wants_json():
        print_json(answer)
        return
    console().print(f"{box} is forgotten", highlight=False, markup=False)


@fleet.command()
@click.option("--by", type=click.Choice(["user", "box", "run"]), default="user", show_default=True, help="Grouping.")
@click.option("--days", type=click.IntRange(1, 3660), default=30, show_default=True, help="How far back.")
@format_option
def use(by: str, days: int) -> None:
    """Show GPU-hours, the share of them in which the GPUs idled, and the wait in the queue."""
    answer = Client().fleet_use(by=by, days=days)
    if wants_json():
        print_json(answer)
        return
    rows = [_use_row(row) for row in answer["use"]]
    columns = [by, "attempts", "GPU-hours", "idle", "wait", "kWh"]
    if rows:
        print_table(columns, rows)
    else:
        console().print(f"nothing ran in the last {days} days")


def _use_row(row: dict[str, Any]) -> tuple[Any, ...]:
    idle = None if row["idle_share"] is None else f"{row['idle_share']:.0%}"
    hours = f"{row['gpu_hours']:.2f}"
    return (
        row["name"] or "nobody signed in",
        row["attempts"],
        hours,
        idle,
        duration(row["queue_wait_s"]),
        row["energy_kwh"],
    )


@fleet.command()
@click.argument("user", required=False)
@click.option("--default", "for_all", is_flag=True, help="Of everybody who has no own quota.")
@click.option("--gpus", type=click.IntRange(min=0), help="GPUs at a time.")
@click.option("--gpu-hours", type=click.FloatRange(min=0), help="GPU-hours in the period (MLFLOW_LMMS_QUOTA_DAYS).")
@click.option("--no-limit", is_flag=True, help="Neither of the two.")
@click.option("--remove", is_flag=True, help="Let the default hold for the user again.")
@format_option
def quota(
    user: str | None, for_all: bool, gpus: int | None, gpu_hours: float | None, no_limit: bool, remove: bool
) -> None:
    """Show the quotas, or set what USER may have."""
    client = Client()
    limits = gpus is not None or gpu_hours is not None
    if not (user or for_all or limits or no_limit or remove):
        _show_quotas(client.quotas())
        return
    if (user is None) == (not for_all) or limits + no_limit + remove != 1 or (remove and user is None):
        raise InvalidRequestError(
            "name a user or --default, and one of: limits (--gpus, --gpu-hours), --no-limit, --remove (of a user)"
        )
    if remove:
        assert user is not None, "checked above"
        client.drop_quota(user)
    else:
        client.put_quota(user, gpus=gpus, gpu_hours=gpu_hours)
    _show_quotas(client.quotas())


def _show_quotas(found: dict[str, Any]) -> None:
    if wants_json():
        print_json(found)
        return
    rows = [("(default)", *_limits(found["default"]))]
    rows += [(user, *_limits(limits)) for user, limits in sorted(found["users"].items())]
    print_table(["user", "GPUs at a time", "GPU-hours"], rows)


def _limits(limits: dict[str, Any]) -> tuple[str, str]:
    gpus, hours = limits["gpus"], limits["gpu_hours"]
    return "no limit" if gpus is None else str(gpus), "no limit" if hours is None else f"{hours:g}"
