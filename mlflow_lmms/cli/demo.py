"""`mlflow-lmms demo`: the whole path on this machine, from three trained models to a ranked leaderboard."""

from __future__ import annotations

import os
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mlflow_lmms.cli.follow import failed, follow
from mlflow_lmms.cli.leaderboard import print_board
from mlflow_lmms.cli.output import console
from mlflow_lmms.cli.registry_client import registry_client
from mlflow_lmms.cli.up import greet, say, serve, stack_options, stop_on_signals
from mlflow_lmms.client import Client
from mlflow_lmms.local_stack import LocalStack, pages
from mlflow_lmms.settings import Settings

_FAILED = 1


@click.command()
@stack_options
@click.option("--exit", "exit_after", is_flag=True, help="End after the leaderboard instead of serving on.")
@click.option("--browser/--no-browser", default=True, help="Open the first evaluation where there is a display.")
@click.option("--limit", type=click.IntRange(1), help="Documents per task, for a quick look.  [default: all]")
@click.pass_context
def demo(
    context: click.Context,
    /,
    port: int,
    data_folder: Path | None,
    exit_after: bool,
    browser: bool,
    limit: int | None,
) -> None:
    """Show it all on this machine: train three small models, evaluate them, rank them, keep serving."""
    from mlflow_lmms.demo import SUITE, check_installed, with_digits

    check_installed()
    stop_on_signals()
    out = console()
    out.print("Preparing the digits benchmark and starting server, queue and worker …")
    with LocalStack(with_digits(Settings.load(data_folder=data_folder)), port, say) as stack:
        greet(stack)
        os.environ.update(stack.client_environment)
        client = Client(stack.url)
        run_ids = _evaluate(client, stack, out, limit)
        if browser and not exit_after:
            _open_browser(stack, run_ids[0])
        ended = follow(client, run_ids, out)
        out.print()
        print_board(client.leaderboard(suite=SUITE, partial=limit is not None), out)
        if any(failed(evaluation) for evaluation in ended):
            _say_why(ended, out, stack)
            context.exit(_FAILED)
        if exit_after:
            again = f"mlflow-lmms up --data-folder {stack.folder}"
            out.print(f"\nEverything is kept; look at it with: {again}", highlight=False, soft_wrap=True)
        else:
            _say_where(stack, run_ids[0], out)
        _say_how(client, stack, out)
        if exit_after:
            return
        out.print("\nServing on; Ctrl-C stops everything.")
        serve()


def _evaluate(client: Client, stack: LocalStack, out: Console, limit: int | None) -> list[str]:
    from mlflow_lmms.demo import SUITE, register_models, submit_all, train_models

    trained = train_models(stack.folder / "digits-models")
    uris = register_models(registry_client(stack.url), trained)
    for uri, new in uris.items():
        out.print(f"{'trained and registered' if new else 'already registered':<22} {uri}", highlight=False)
    run_ids = submit_all(client, uris, limit)
    first = _page(stack, run_ids[0])
    out.print(f"queued {len(run_ids)} evaluations on {SUITE!r}; watch the first live: {first}\n", highlight=False)
    return run_ids


def _open_browser(stack: LocalStack, run_id: str) -> None:
    # Without a display a browser of the terminal would take this terminal over.
    if any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(_page(stack, run_id))


def _page(stack: LocalStack, run_id: str) -> str:
    return f"{pages(stack.url)['Evaluations']}/{run_id}"


def _say_why(ended: list[dict[str, Any]], out: Console, stack: LocalStack) -> None:
    for evaluation in filter(failed, ended):
        reasons: dict[str, list[str]] = {}
        for task in evaluation["tasks"]:
            if task["state"] != "finished":
                reason = f"{task['failure'] or task['state']}: {task['message'] or 'no message'}"
                reasons.setdefault(reason, []).append(task["task"])
        for reason, tasks in reasons.items():
            out.print(f"{evaluation['model']} · {', '.join(tasks)}: {reason}", style="red", markup=False)
    out.print(f"Logs: {stack.folder / 'logs'}", highlight=False)


def _say_where(stack: LocalStack, run_id: str, out: Console) -> None:
    out.print("\n[bold]Look at it[/]")
    links = {**pages(stack.url), "One evaluation": _page(stack, run_id)}
    for title, url in links.items():
        out.print(f"  {title:<15} {url}", highlight=False)


def _say_how(client: Client, stack: LocalStack, out: Console) -> None:
    program = "mlflow-lmms" if shutil.which("mlflow-lmms") else str(Path(sys.argv[0]).absolute())
    gpu = any(box.get("gpu_slots") for box in client.fleet().get("boxes", []))
    words = [
        f"MLFLOW_TRACKING_URI={stack.url}",
        program,
        "submit --adapter qwen2_5_vl --model-args pretrained=Qwen/Qwen2.5-VL-3B-Instruct --tasks digits_vqa",
        "--smoke 4",
        *([] if gpu else ["--gpus 0"]),
    ]
    out.print("\n[bold]Evaluate your own model[/] (in another terminal; any lmms-eval model type and task)")
    out.print(f"  {' '.join(words)}", highlight=False, soft_wrap=True, markup=False)
