"""Assembles the commands and turns every error into a message and an exit code; the one place that does.

Commands of other packages come from the entry-point group `mlflow_lmms.commands`. A command's module is imported
when the command runs, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import NoReturn

import click

from mlflow_lmms.cli.output import Output, print_error
from mlflow_lmms.errors import LmmsError

ENTRY_POINTS = "mlflow_lmms.commands"
INTERRUPTED = 130
#: command → module, attribute and the line that `--help` shows without importing it.
COMMANDS = {
    "up": ("mlflow_lmms.cli.up", "up", "Run everything on this machine: server, queue and a worker."),
    "demo": ("mlflow_lmms.cli.demo", "demo", "Show it all: train, register, evaluate and rank three small models."),
    "submit": ("mlflow_lmms.cli.submit", "submit", "Ask for an evaluation."),
    "status": ("mlflow_lmms.cli.evaluations", "status", "Show the evaluations, or one of them."),
    "logs": ("mlflow_lmms.cli.logs", "logs", "Show the log of an evaluation."),
    "cancel": ("mlflow_lmms.cli.evaluations", "cancel", "Stop an evaluation; finished tasks keep their results."),
    "retry": ("mlflow_lmms.cli.evaluations", "retry", "Run again what an evaluation is missing."),
    "rescore": ("mlflow_lmms.cli.rescore", "rescore", "Score stored answers again, without new inference."),
    "fleet": ("mlflow_lmms.cli.fleet", "fleet", "Show boxes, GPUs and queue; pause and drain boxes; use and quotas."),
    "leaderboard": ("mlflow_lmms.cli.leaderboard", "leaderboard", "Rank the models, with intervals."),
    "compare": ("mlflow_lmms.cli.compare", "compare", "Compare runs with a baseline, task by task."),
    "gate": ("mlflow_lmms.cli.gate", "gate", "Judge a model against a baseline: pass, fail or inconclusive."),
    "slices": ("mlflow_lmms.cli.slices", "slices", "Show groups of documents: scores, gaps, what changed."),
    "flips": (
        "mlflow_lmms.cli.flips",
        "flips",
        "Show the documents that a candidate won, lost or answered otherwise.",
    ),
    "config-diff": ("mlflow_lmms.cli.config_diff", "config_diff", "Show which settings of runs differ."),
    "view": ("mlflow_lmms.cli.view", "view", "Save boards and comparisons, open and share them."),
    "note": ("mlflow_lmms.cli.note", "note", "Write and read notes on runs, results and samples."),
    "result": ("mlflow_lmms.cli.result", "result", "Invalidate, re-score or restore a result."),
    "report": ("mlflow_lmms.cli.report", "report", "Write leaderboard and comparison into one HTML file."),
    "trend": ("mlflow_lmms.cli.trend", "trend", "Show a model's scores over its versions, or over time."),
    "changes": ("mlflow_lmms.cli.trend", "changes", "Show what changed in a period."),
    "power": ("mlflow_lmms.cli.power", "power", "Plan how many documents an evaluation needs."),
    "catalog": ("mlflow_lmms.cli.catalog", "catalog", "List the benchmarks; show, check and make one."),
    "comparable": ("mlflow_lmms.cli.comparable", "comparable", "Say whether two runs may be compared."),
    "suite": ("mlflow_lmms.cli.suite", "suite", "Keep named, versioned sets of tasks."),
    "model": ("mlflow_lmms.cli.model", "model", "Register a model for evaluation, or show one."),
    "import": ("mlflow_lmms.cli.import_results", "import_results", "Import outputs of lmms-eval."),
    "link": ("mlflow_lmms.cli.link", "link", "Link an imported run to a registered model."),
    "reindex": ("mlflow_lmms.cli.reindex", "reindex", "Build the boards' index anew from the MLflow runs."),
    "server": ("mlflow_lmms.cli.server", "server", "Start the MLflow server with our tabs in it."),
    "config": ("mlflow_lmms.cli.config", "config", "Show every setting and where its value comes from."),
    "doctor": ("mlflow_lmms.cli.doctor", "doctor", "Check each part and say how to mend what is wrong."),
}


class Commands(click.Group):
    """Our commands and those of entry points, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, ours first."""
        return [*COMMANDS, *sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            command: click.Command = getattr(import_module(module), attribute)
            return command
        for point in entry_points(group=ENTRY_POINTS, name=cmd_name):
            loaded: click.Command = point.load()
            return loaded
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing ours."""
        others = [name for name in self.list_commands(ctx) if name not in COMMANDS]
        rows = [(name, line) for name, (_, _, line) in COMMANDS.items()]
        rows += [(name, found.get_short_help_str(90)) for name in others if (found := self.get_command(ctx, name))]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 118})
@click.version_option(version("mlflow-lmms"), prog_name="mlflow-lmms")
def cli() -> None:
    """Evaluate large multimodal models with lmms-eval from MLflow.

    `mlflow-lmms demo` shows everything on this machine. Settings are environment variables MLFLOW_LMMS_…; the
    server is found through MLFLOW_TRACKING_URI.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code after saying what went wrong."""
    output = Output()
    try:
        code = cli.main(arguments, prog_name="mlflow-lmms", obj=output, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except LmmsError as error:
        print_error(output, type(error).__name__, error.message, error.exit_code)
        return error.exit_code
    except click.UsageError as error:
        if not output.json:
            error.show()
            return error.exit_code
        print_error(output, type(error).__name__, error.format_message(), error.exit_code)
        return error.exit_code
    except click.ClickException as error:
        print_error(output, type(error).__name__, error.format_message(), error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
