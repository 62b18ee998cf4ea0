"""`mlflow-lmms catalog new`: a working benchmark out of JSON lines and a folder of media, tried on two samples."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json

if TYPE_CHECKING:
    from mlflow_lmms.catalogue.new_documents import NewDocuments
    from mlflow_lmms.catalogue.trial_run import Trial
    from mlflow_lmms.samples import Sample

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(path_type=Path)
_WRONG = 1


@click.command()
@click.argument("name")
@click.option("--from", "source", required=True, type=_FILE, help="Documents: one JSON object a line.")
@click.option("--media", type=_FOLDER, help="Folder of the images, sounds or videos that the documents name.")
@click.option("--into", type=_FOLDER, help="Folder to write, new or empty.  [default: ./NAME]")
@click.option("--question", metavar="COLUMN", help="Column with what is asked.  [default: question, prompt, …]")
@click.option("--answer", metavar="COLUMN", help="Column with the right answer(s).  [default: answer, target, …]")
@click.option(
    "--dimension", "dimensions", multiple=True, metavar="COLUMN", help="Column to slice by.  [default: found]"
)
@click.option("--try/--no-try", "tried", default=True, help="Run two samples with lmms-eval.", show_default=True)
@format_option
@click.pass_context
def new(
    context: click.Context,
    /,
    name: str,
    source: Path,
    media: Path | None,
    into: Path | None,
    question: str | None,
    answer: str | None,
    dimensions: tuple[str, ...],
    tried: bool,
) -> None:
    """Write the benchmark NAME: task file, scoring code, documents, media; then try it on two samples.

    An answer is right when it is one of the right ones, whatever its case and spacing. Columns with few values become
    slices. The trial asks no real model: lmms-eval's `dummy` says the first document's right answer to both.
    """
    from mlflow_lmms.catalogue.new_documents import Columns, read_new_documents
    from mlflow_lmms.catalogue.new_task import check_name, write_task
    from mlflow_lmms.catalogue.trial_run import can_try
    from mlflow_lmms.cli.catalog_read import load_catalogue

    check_name(name, load_catalogue())
    documents = read_new_documents(source, media, Columns(question, answer, dimensions))
    file = write_task(name, into or Path(name), documents)
    if not wants_json():
        _print_written(name, file, documents)
    right = True
    if tried and can_try():
        with tempfile.TemporaryDirectory(prefix="lmms-trial-") as folder:
            right = _try(name, file, documents, Path(folder))
    elif wants_json():
        print_json({"task": name, "file": str(file), "documents": len(documents.documents), "samples": None})
    else:
        console().print("not tried" + ("" if can_try() else ": lmms-eval is not installed here"))
    if not wants_json():
        _print_next(name, file.parent)
    if not right:
        context.exit(_WRONG)


def _print_written(name: str, file: Path, documents: NewDocuments) -> None:
    media = f", {len(documents.media_files):,} media files ({', '.join(documents.kinds)})" if documents.kinds else ""
    slices = f"; slices by {', '.join(documents.dimensions)}" if documents.dimensions else "; no column to slice by"
    console().print(
        f"wrote {name} into {file.parent}: {len(documents.documents):,} documents{media}{slices}",
        highlight=False,
        soft_wrap=True,
    )


def _try(name: str, file: Path, documents: NewDocuments, folder: Path) -> bool:
    """Run and show the trial; tell whether it went as it must."""
    from mlflow_lmms.catalogue.trial_run import SAMPLES, try_task
    from mlflow_lmms.samples import read_samples

    if not wants_json():
        console().print(f"trying {SAMPLES} samples with lmms-eval…", highlight=False)
    trial = try_task(name, file.parent, documents.documents[0].answers, folder)
    samples = read_samples(trial.samples_file).samples
    wrong = list(_complaints(trial, samples, documents))
    if wants_json():
        described = [_as_json(sample) for sample in samples]
        print_json(
            {
                "task": name,
                "file": str(file),
                "documents": len(documents.documents),
                "model": f"dummy: says {trial.answer!r} to everything",
                "samples": described,
                "metrics": trial.result["metrics"],
                "wrong": wrong,
            }
        )
        return not wrong
    for sample in samples:
        paths = [file.parent / "media" / media for media in documents.documents[sample.doc_id].media]
        _print_sample(name, trial, sample, paths)
    scored = ", ".join(f"{metric['metric']} {metric['value']:g}" for metric in trial.result["metrics"])
    console().print(
        f"lmms-eval ran it: {scored} over {len(samples)} samples. The model was lmms-eval's `dummy`, which says "
        f"{trial.answer!r} to everything: the number says that scoring works, nothing of a model.",
        highlight=False,
        soft_wrap=True,
    )
    for complaint in wrong:
        console().print(Text(f"wrong: {complaint}", style="red"), soft_wrap=True)
    return not wrong


def _complaints(trial: Trial, samples: Sequence[Sample], documents: NewDocuments) -> Iterator[str]:
    """What a trial of sound files cannot show."""
    for sample in samples:
        named = documents.documents[sample.doc_id].media
        if len(sample.references) < len(named):
            reached = len(sample.references)
            yield f"document {sample.doc_id} names {len(named)} media files, {reached} reached the model"
    first = samples[0]
    is_right = trial.answer in documents.documents[first.doc_id].answers
    if is_right and not any(value == 1 for value in first.scores.values()):
        yield f"the right answer {trial.answer!r} to document {first.doc_id} scored {first.scores}"


def _print_sample(name: str, trial: Trial, sample: Sample, paths: list[Path]) -> None:
    from mlflow_lmms.cli.smoke import drawing
    from mlflow_lmms.samples import read_media

    out = console()
    parts = [_line("prompt", sample.input)]
    for path in paths:
        parts.append(_line("shown", str(path)))
    for number in range(sample.media if out.is_terminal else 0):
        _, content = read_media(trial.samples_file, sample.index, number)
        parts += [drawn] if (drawn := drawing(content)) is not None else []
    parts += [_line("response", f"{response}  (the stand-in's)") for response in sample.responses]
    parts.append(_line("expected", sample.target))
    scores = ", ".join(f"{metric} {value:g}" for metric, value in sample.scores.items() if value is not None)
    parts.append(_line("score", scores or "none"))
    out.print(Panel(Group(*parts), title=f"{name} · document {sample.doc_id}", title_align="left"))


def _as_json(sample: Sample) -> dict[str, object]:
    return {
        "doc_id": sample.doc_id,
        "prompt": sample.input,
        "media": [reference.sha256 for reference in sample.references],
        "responses": list(sample.responses),
        "expected": sample.target,
        "scores": sample.scores,
    }


def _line(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<10}", "bold"), text)


def _print_next(name: str, folder: Path) -> None:
    out = console()
    out.print("\nto use it, on server and workers:", highlight=False)
    out.print(
        f"  export MLFLOW_LMMS_TASK_FOLDERS={shlex.quote(str(folder.resolve()))}", highlight=False, soft_wrap=True
    )
    out.print(f"  mlflow-lmms submit --model … --tasks {name}", highlight=False)
