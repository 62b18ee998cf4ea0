"""`status`, `cancel` and `retry`: evaluations as they stand, and the two moves that a user has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from mlflow_lmms.cli.output import console, duration, format_option, moment, print_json, print_table, wants_json
from mlflow_lmms.client import Client
from mlflow_lmms.states import State


@click.command()
@click.argument("run_id", required=False)
@click.option("--state", type=click.Choice([str(state) for state in State]), help="Only evaluations in this state.")
@click.option("--experiment", help="Only this experiment's.")
@click.option("--model", help="Only this model's, by the name shown.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@format_option
def status(run_id: str | None, state: str | None, experiment: str | None, model: str | None, limit: int) -> None:
    """Show the newest evaluations, or one with its tasks."""
    client = Client()
    if run_id is not None:
        _show(client.evaluation(run_id))
        return
    found = client.evaluations(state=state, experiment=experiment, model=model, limit=limit)
    if wants_json():
        print_json(found)
        return
    if not found:
        console().print("no evaluations; `mlflow-lmms submit --help` says how to ask for one")
        return
    rows = [
        (e["run_id"], e["model"], e["suite"], _state(e), _done(e), moment(e["created_at"]), _took(e)) for e in found
    ]
    print_table(["run", "model", "suite", "state", "tasks", "asked for", "took"], rows)


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID…")
@format_option
def cancel(run_ids: tuple[str, ...]) -> None:
    """Stop evaluations; finished tasks keep their results."""
    client = Client()
    _report("cancelled", [client.cancel(run_id) for run_id in run_ids], run_ids)


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID…")
@format_option
def retry(run_ids: tuple[str, ...]) -> None:
    """Run again what failed or was cancelled, in the same MLflow run."""
    client = Client()
    _report("queued again", [client.retry(run_id) for run_id in run_ids], run_ids)


def _report(what: str, answers: list[dict[str, Any]], run_ids: Sequence[str]) -> None:
    if wants_json():
        print_json(answers[0] if len(answers) == 1 else answers)
        return
    for run_id in run_ids:
        console().print(f"{what}: {run_id}")


def _show(evaluation: dict[str, Any]) -> None:
    if wants_json():
        print_json(evaluation)
        return
    facts = {
        "run": evaluation["run_id"],
        "name": evaluation["name"],
        "state": _state(evaluation),
        "asked for": f"{moment(evaluation['created_at'])} by {evaluation['created_by'] or 'nobody signed in'}",
        "took": _took(evaluation),
        "worker": evaluation["worker"] or "–",
        "command": evaluation["command"],
    }
    if evaluation.get("wait"):
        facts["waits"] = evaluation["wait"]["reason"]
    out = console()
    for name, value in facts.items():
        out.print(f"{name:<10} {value}", markup=False, highlight=False, soft_wrap=True)
    rows = [
        (t["task"], t["state"], t["attempt"], t["samples"], t["metric"], t["score"], t["message"] or "")
        for t in evaluation["tasks"]
    ]
    out.print()
    print_table(["task", "state", "attempt", "samples", "metric", "score", "message"], rows)


def _state(evaluation: dict[str, Any]) -> str:
    if evaluation.get("position"):
        return f"queued, number {evaluation['position']}"
    asked = evaluation["cancel_requested"] and evaluation["state"] not in ("finished", "failed", "cancelled")
    return f"{evaluation['state']}, stopping" if asked else str(evaluation["state"])


def _done(evaluation: dict[str, Any]) -> str:
    finished = sum(task["state"] == State.FINISHED for task in evaluation["tasks"])
    return f"{finished}/{len(evaluation['tasks'])}"


def _took(evaluation: dict[str, Any]) -> str:
    started = evaluation["started_at"]
    return "–" if started is None else duration((evaluation["ended_at"] or time.time()) - started)
