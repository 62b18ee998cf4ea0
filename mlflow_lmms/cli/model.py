"""`mlflow-lmms model register` and `show`: models in MLflow's registry with all that lmms-eval needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.cli.registry_client import registry_client
from mlflow_lmms.model_arguments import parse_model_arguments
from mlflow_lmms.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Register a model for evaluation, or show one."""


@model.command()
@click.argument("name")
@click.option("--adapter", required=True, help="lmms-eval model type, such as qwen2_5_vl.")
@click.option("--model-args", "--model_args", default="", help="Arguments of the model type: pretrained=…,dtype=….")
@click.option("--files", type=_FOLDER, help="Folder to upload with the version; workers download it.")
@click.option(
    "--artifact-argument", default="path", show_default=True, help="Argument that gets the path of --files."
)
@click.option("--checkpoint", type=_FOLDER, help="Folder that the GPU boxes can read; it stays where it is.")
@click.option("--step", type=int, help="Training step of the checkpoint.")
@click.option("--revision", help="Revision of a model on a hub.  [default: model argument revision]")
@click.option("--parameters", type=int, help="Number of parameters.  [default: read from the files]")
@click.option("--dtype", help="Number format.  [default: read from arguments or files]")
@click.option("--modalities", help="What it takes: text,image,video,audio.  [default: read from the files]")
@click.option("--environment", help="Evaluation environment that it needs.")
@click.option("--parent-run", help="MLflow run that trained it.")
@click.option("--gpus", type=click.IntRange(0), help="GPUs that it needs.  [default: 1, 0 for API models]")
@click.option("--gpu-memory-gb", type=float, help="Memory that it needs on each GPU, in GB.  [default: estimated]")
@format_option
def register(name: str, model_args: str, modalities: str | None, **description: Any) -> None:
    """Make a version of the registered model NAME that `submit --model models:/NAME/VERSION` can evaluate."""
    from mlflow_lmms.registry import ModelDescription, register_model

    given = ModelDescription(
        model_args=parse_model_arguments(model_args),
        modalities=tuple(part.strip() for part in (modalities or "").split(",") if part.strip()),
        **description,
    )
    version = register_model(registry_client(Settings.load().server_url), name, given)
    if wants_json():
        print_json(_facts(version))
        return
    uri = f"models:/{version.name}/{version.version}"
    console().print(f"registered {uri}; evaluate it: mlflow-lmms submit --model {uri} --tasks …", highlight=False)


@model.command()
@click.argument("uri")
@format_option
def show(uri: str) -> None:
    """Show a registered version (models:/NAME/VERSION or models:/NAME@ALIAS) as lmms-eval will load it."""
    from mlflow_lmms.registry import find_version, resolve_model
    from mlflow_lmms.request import EvaluationRequest

    client = registry_client(Settings.load().server_url)
    facts = _facts(find_version(client, uri))
    # Any task: what is resolved here is the model.
    resolved = resolve_model(client, EvaluationRequest.parse({"model": uri, "tasks": ["any"]}))
    facts["resolved"] = resolved.model_dump(mode="json")
    if wants_json():
        print_json(facts)
        return
    for key, value in (facts | facts.pop("tags") | facts.pop("resolved")).items():
        console().print(f"{key:<24} {value}", markup=False, highlight=False, soft_wrap=True)


def _facts(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": str(version.version),
        "uri": f"models:/{version.name}/{version.version}",
        "run_id": version.run_id,
        "source": version.source,
        "tags": dict(version.tags),
    }
