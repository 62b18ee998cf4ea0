"""`mlflow-lmms gate`: pass, fail or inconclusive, as an exit code and as files for continuous integration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from mlflow_lmms.cli.output import console, format_option, new_table, print_json, wants_json
from mlflow_lmms.client import Client
from mlflow_lmms.errors import ConfigurationError, InvalidRequestError, LmmsError, UnavailableError
from mlflow_lmms.report.gate_junit import gate_junit
from mlflow_lmms.report.gate_markdown import gate_markdown

#: 1 and 2 are verdicts here, so what goes wrong leaves with other codes: those of sysexits.h, and 3 as everywhere.
WRONG_USE, BROKEN = 64, 70
_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


class WrongUseError(click.UsageError):
    """The command line is wrong."""

    exit_code = WRONG_USE


class GateCommand(click.Command):
    """A command whose errors cannot be mistaken for a verdict."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except click.ClickException as error:
            raise WrongUseError(error.format_message(), getattr(error, "ctx", None)) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LmmsError as error:
            wrong = isinstance(error, InvalidRequestError | ConfigurationError)
            if not isinstance(error, UnavailableError):
                error.exit_code = WRONG_USE if wrong else BROKEN
            raise
        except click.ClickException as error:
            raise WrongUseError(error.format_message(), getattr(error, "ctx", None)) from None


@click.command(cls=GateCommand)
@click.option("--candidate", required=True, help="What is to be judged: models:/NAME/VERSION, @ALIAS, or a run's id.")
@click.option("--baseline", required=True, help="What it must not fall behind: the same.")
@click.option("--suite", help="The suite with its margins, NAME or NAME@REVISION; none: every task of the baseline.")
@click.option(
    "--margin",
    "margins",
    multiple=True,
    metavar="SHARE|TASK=VALUE",
    help="Acceptable loss: of each task as a share of its scale, or of one in its own units; wins over the suite.",
)
@click.option(
    "--suite-margin", type=float, help="Of the weighted mean over the tasks.  [default: mean of the tasks']"
)
@click.option("--slice-margin", type=float, help="Of each group of documents; without one no groups are looked at.")
@click.option(
    "--slice", "dimensions", multiple=True, help="Look at this dimension's groups; may be given several times."
)
@click.option("--lenient-slices", is_flag=True, help="Pass although a group has too few documents to say.")
@click.option("--experiment", help="Only results in this experiment (its id).")
@click.option("--partial", is_flag=True, help="Let results over a part of the documents pass too.")
@click.option("--flagged", is_flag=True, help="Let results pass too whose warnings speak against them.")
@click.option("--no-record", is_flag=True, help="Do not write the verdict onto the candidate's model version.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit XML report.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write a Markdown report.")
@format_option
@click.pass_context
def gate(context: click.Context, /, **options: Any) -> None:
    """Judge whether a candidate is no worse than a baseline by more than a margin.

    On every task, in the weighted mean over the suite and in each group the 95 % interval of the paired difference
    decides. Exit code 0: pass, 1: fail, 2: inconclusive; 64: the request is wrong, 3: the server does not answer,
    70: another error. A missing, partial, flagged or incomparable result never passes by itself.
    """
    files = {gate_junit: options.pop("junit"), gate_markdown: options.pop("markdown")}
    told = Client().gate(**_fields(options))
    for written, path in files.items():
        if path is not None:
            _write(path, written(told))
    if wants_json():
        print_json(told)
    else:
        _print(told)
    context.exit(int(told["exit_code"]))


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    general, by_task = _margins(options.pop("margins"))
    record = not options.pop("no_record")
    options["dimensions"] = list(options["dimensions"])
    return options | {"margin": general, "margins": by_task, "record": record}


def _margins(given: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    general, by_task = None, {}
    for text in given:
        task, named, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            raise InvalidRequestError(f"--margin: expected 0.01 or TASK=0.01, got {text[:200]!r}") from None
        if named:
            by_task[task] = number
        else:
            general = number
    return general, by_task


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None


def _print(told: Mapping[str, Any]) -> None:
    out = console()
    suite = told["suite"]
    about = f" on suite {suite['name']} (revision {suite['revision']})" if suite else ""
    line = f"candidate {told['candidate']['model']} against {told['baseline']['model']}{about}"
    out.print(line, markup=False, highlight=False)
    table = new_table("task", "metric", "baseline", "candidate", "gain", "margin", "of", "verdict")
    for task in told["tasks"]:
        table.add_row(*_row(task))
    mean = told["mean"]
    name = Text(f"weighted mean of {mean['counted']} of {mean['of']}", style="bold")
    table.add_row(name, Text("share of scale"), "", "", _gain(mean), _number(mean["margin"]), "", _verdict(mean))
    out.print(table)
    for task in told["tasks"]:
        for group in task["groups"]:
            if group["outcome"] not in ("pass", None):
                where = f"{task['task']} · {group['dimension']}={group['value']}"
                out.print(Text.assemble("  ", where, ": ", _verdict(group)))
    verdict = Text(str(told["outcome"]).upper(), style=_STYLES[told["outcome"]])
    out.print(verdict)
    if told["recorded"]:
        version = told["candidate"]["version"]
        line = f"written onto {version['name']} v{version['version']}: {', '.join(told['recorded'])}"
        out.print(line, style="dim", markup=False, highlight=False)


def _row(task: Mapping[str, Any]) -> tuple[Text | str, ...]:
    metric = f"{task['metric'] or '–'}{' ↓' if task['higher_is_better'] is False else ''}"
    numbers = (_number(task["baseline"]), _number(task["candidate"]), _gain(task), _number(task["margin"]))
    return (Text(task["task"]), Text(metric), *numbers, _number(task["n"]), _verdict(task))


def _gain(told: Mapping[str, Any]) -> Text:
    if told["gain"] is None:
        return Text("–")
    shown = Text(f"{told['gain']:+.4g}")
    return shown.append(f" [{told['low']:+.4g}, {told['high']:+.4g}]", style="dim")


def _verdict(told: Mapping[str, Any]) -> Text:
    shown = Text(told["outcome"], style=_STYLES[told["outcome"]])
    return shown if told["outcome"] == "pass" else shown.append(f": {told['reason']}", style="dim")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
