"""`mlflow-lmms import`: output folders of lmms-eval, and published scores, become MLflow runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mlflow_lmms.cli.output import console, format_option, print_json, print_table, wants_json
from mlflow_lmms.cli.tracking import tracking_client
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.settings import Settings

if TYPE_CHECKING:
    from mlflow_lmms.importing.import_run import ImportOptions
    from mlflow_lmms.importing.report import FileOutcome, ImportReport

_REFUSED = 1
_NAMED = 3


@click.command(name="import")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--map", "mapping", multiple=True, metavar="FOLDER=models:/NAME/VERSION", help="Registered model of a "
              "folder's results; or a YAML file of such lines. May be given several times.")  # fmt: skip
@click.option("--experiment", help="MLflow experiment.  [default: MLFLOW_LMMS_EXPERIMENT]")
@click.option("--suite", help="Name under which the tasks are shown together.  [default: the group or the tasks]")
@click.option("--primary", help="Metrics that stand for tasks: TASK=METRIC[:FILTER],…")
@click.option(
    "--errored", help="Errored samples: as_scored, drop or wrong; drop:0.05 refuses a task with more than 5 %."
)
@click.option("--reported", type=click.Path(path_type=Path), help="CSV, JSON or YAML table of published scores.")
@click.option("--dry-run", is_flag=True, help="Read everything and say what would be imported.")
@format_option
def import_results(
    paths: tuple[Path, ...], mapping: tuple[str, ...], reported: Path | None, dry_run: bool, **options: str | None
) -> int:
    """Import output folders of lmms-eval 0.3 to 0.7 and lm-evaluation-harness 0.4 as MLflow runs.

    Every results file at or below the PATHS becomes one run, with its samples; importing again adds nothing. What is
    refused does not stop the others, and makes the exit code 1.

    \b
    mlflow-lmms import outputs/ --map qwen2-vl=models:/qwen2-vl/1
    mlflow-lmms import --reported published.csv
    """
    if not paths and reported is None:
        raise InvalidRequestError("name a folder with outputs of lmms-eval, or a table with --reported FILE")
    if dry_run and reported is not None:
        raise InvalidRequestError("--dry-run goes with folders: a table of reported scores is checked as it is read")
    report = _import(paths, mapping, reported, _options(options, dry_run=dry_run))
    if wants_json():
        print_json(report.document())
    else:
        _show(report)
    return _REFUSED if report.refused else 0


def _options(given: dict[str, str | None], *, dry_run: bool) -> ImportOptions:
    """Read as a request's fields of the same names; model and tasks are the files' own."""
    from mlflow_lmms.importing.import_run import ImportOptions
    from mlflow_lmms.reading.errored import ErroredPolicy

    asked = EvaluationRequest.parse({"adapter": "any", "tasks": ["any"], **given})
    errored = asked.errored
    return ImportOptions(
        experiment=asked.experiment or Settings.load().experiment,
        suite=asked.suite,
        primary=asked.primary,
        policy=ErroredPolicy(errored.policy, errored.fail_above) if errored else ErroredPolicy(),
        dry_run=dry_run,
    )


def _import(
    paths: tuple[Path, ...], mapping: tuple[str, ...], reported: Path | None, options: ImportOptions
) -> ImportReport:
    from mlflow_lmms.importing.discovery import discover
    from mlflow_lmms.importing.experiments import experiment_named
    from mlflow_lmms.importing.import_run import Importer
    from mlflow_lmms.importing.index_run import index_run
    from mlflow_lmms.importing.model_map import ModelMap, parse_map
    from mlflow_lmms.importing.report import ImportReport, ImportStatus
    from mlflow_lmms.importing.reported_scores import ReportedScores
    from mlflow_lmms.importing.scrubbed import scrubber_for_files

    client, address = tracking_client()
    outcomes: list[FileOutcome] = []
    if paths:
        found = discover(paths)
        models = ModelMap(client, parse_map(mapping))
        for folder in models.unused(found.runs):
            click.echo(f"warning: --map {folder}: no results are in a folder of this name", err=True)
        with _progress(len(found.runs)) as told:
            importer = Importer(
                client,
                options,
                models,
                scrubber_for_files(),
                progress=told,
                on_recorded=lambda run_id: index_run(address, run_id),
            )
            outcomes += importer.import_all(found).files
        if mapping and any(own.status is ImportStatus.ALREADY for own in outcomes):
            click.echo(
                "note: --map leaves runs that are already imported alone; `mlflow-lmms link` does not", err=True
            )
    if reported is not None:
        scores = ReportedScores(
            client,
            experiment_named(client, options.experiment),
            on_recorded=lambda run_id: index_run(address, run_id),
        )
        outcomes += scores.import_file(reported).files
    return ImportReport.of(outcomes)


@contextmanager
def _progress(results: int) -> Iterator[Any]:
    """A line on the terminal: which results file, which task, how many samples."""
    shown = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal or wants_json()) as progress:
        bar = progress.add_task("")
        seen: dict[Path, int] = {}

        def told(path: Path, task: str, lines: int) -> None:
            number = seen.setdefault(path, len(seen) + 1)
            samples = f" · {lines:,} samples" if lines else ""
            progress.update(bar, description=f"{number}/{results} {path.parent.name}/{path.name} · {task}{samples}")

        yield told


def _show(report: ImportReport) -> None:
    rows = [
        (
            str(own.status),
            f"{own.path.parent.name}/{own.path.name}",
            own.run_name,
            _some(own.tasks),
            own.samples or None,
            own.run_id,
            _told(own),
        )
        for own in report.files
    ]
    out = console()
    if not rows:
        out.print("no results file of lmms-eval is there: they are called <date>_results.json or results_<date>.json")
        return
    print_table(["", "file", "run", "tasks", "samples", "run id", "remarks"], rows)
    out.print()
    counts = report.document()["counts"]
    out.print(", ".join(f"{count} {status}" for status, count in counts.items()), highlight=False)
    for path, reason in report.refused:
        out.print(f"refused {path}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" +{more}" if more > 0 else "")


def _told(outcome: FileOutcome) -> str:
    """The reason, or the warnings: how many tasks have each."""
    if outcome.reason:
        return outcome.reason
    counts: dict[str, int] = {}
    for names in outcome.warnings.values():
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    several = len(outcome.tasks) > 1
    flags = [f"{name} ({count})" if several else name for name, count in counts.items()]
    return ", ".join([*flags, *(f"refused {path.name}" for path, _ in outcome.refused)])
