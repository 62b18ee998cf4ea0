"""`mlflow-lmms submit`: an option for each field of a request, a YAML of lmms-eval's `--config`, or its command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mlflow_lmms.cli.follow import failed, follow
from mlflow_lmms.cli.output import console, format_option, print_json, wants_json
from mlflow_lmms.cli.smoke import show_smoke
from mlflow_lmms.client import Client
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.lmms_eval_command import read_command
from mlflow_lmms.lmms_eval_config import read_lmms_eval_config, request_fields
from mlflow_lmms.request import EvaluationRequest

_FAILED = 1


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--model", help="Registered model (models:/NAME/VERSION or models:/NAME@ALIAS) or model type.")
@click.option("--adapter", help="lmms-eval model type, for a model that is not registered.")
@click.option("--model-args", "--model_args", help="Arguments of the model type: a=b,c=d.")
@click.option("--tasks", help="Tasks, groups or tags, comma separated.")
@click.option("--suite", help="A stored suite (NAME or NAME@REVISION); with --tasks a name to show them under.")
@click.option("--primary", help="Metrics that stand for tasks: TASK=METRIC[:FILTER],…")
@click.option("--dimensions", help="Slice dimensions that are always reported: TASK=DIMENSION,…")
@click.option(
    "--errored", help="Errored samples: as_scored, drop or wrong; drop:0.05 fails a task with more than 5 %."
)
@click.option("--limit", type=int, help="Documents per task.  [default: all]")
@click.option("--offset", type=int, help="Documents to leave out at the start.")
@click.option("--batch-size", "--batch_size", type=int, help="Requests that the model gets at once.  [default: 1]")
@click.option("--num-fewshot", "--num_fewshot", type=int, help="Examples in the prompt.")
@click.option("--seed", help="One number, or four as lmms-eval takes them.  [default: 0,1234,1234,1234]")
@click.option("--gen-kwargs", "--gen_kwargs", help="Generation arguments: temperature=0,max_new_tokens=16.")
@click.option("--repeats", type=int, help="Answers per document.")
@click.option("--gpus", type=int, help="GPUs.  [default: what the model needs]")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="[default: normal]")
@click.option("--secrets", help="Secrets of the worker's box by name, comma separated, such as OPENAI_API_KEY.")
@click.option("--environment", help="Evaluation environment that the box must offer.")
@click.option("--gpu-type", help="Words of the GPU's name, such as H100.")
@click.option("--gpu-memory-gb", type=float, help="Memory on each GPU, in GB.  [default: estimated]")
@click.option("--launch", type=click.Choice(["auto", "single", "data-parallel"]), help="Processes for several GPUs.")
@click.option("--labels", help="Labels that the box must have, comma separated.")
@click.option("--box", help="The one box that may run it.")
@click.option("--max-parts", type=int, help="Most boxes or slots that the tasks may be spread over.")
@click.option("--smoke", type=int, metavar="N", help="Run N samples and show prompt, picture, response and answer.")
@click.option("--experiment", help="MLflow experiment.  [default: MLFLOW_LMMS_EXPERIMENT]")
@click.option("--run-name", "--run_name", help="Name of the MLflow run.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YAML of lmms-eval's --config."
)
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 1 when it does not finish.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- lmms-eval …]")
@format_option
@click.pass_context
def submit(
    context: click.Context, /, config: Path | None, wait: bool, command: tuple[str, ...], **options: Any
) -> None:
    """Ask for an evaluation: a model, some tasks and how to run them.

    \b
    mlflow-lmms submit --model models:/my-model/3 --tasks mmmu_val --wait
    mlflow-lmms submit --adapter qwen2_5_vl --model-args pretrained=Qwen/Qwen2.5-VL-3B-Instruct --tasks mme --smoke 3
    mlflow-lmms submit --priority high -- accelerate launch --num_processes=8 -m lmms_eval --model qwen2_5_vl …
    """
    requests, left_out = _requests(config, command, options)
    client = Client()
    submitted = [client.submit(request) for request in requests]
    # With JSON, standard output is for the document alone.
    words = Console(stderr=True) if wants_json() else console()
    for reason in left_out:
        words.print(f"left out: {reason}", markup=False, highlight=False)
    for request, answer in zip(requests, submitted, strict=True):
        words.print(f"queued [bold]{answer['run_id']}[/] {request.model or request.adapter} · {answer['url']}")
        for warning in answer["warnings"]:
            words.print(f"[yellow]warning:[/] {warning}")
    if not wait and all(request.smoke is None for request in requests):
        if wants_json():
            print_json(submitted[0] if len(submitted) == 1 else submitted)
        return
    ended = follow(client, [str(answer["run_id"]) for answer in submitted], words)
    for evaluation in ended:
        if evaluation["request"].get("smoke") and not wants_json():
            show_smoke(client, evaluation, words)
    if wants_json():
        print_json(ended[0] if len(ended) == 1 else ended)
    if any(failed(evaluation) for evaluation in ended):
        context.exit(_FAILED)


def _requests(
    config: Path | None, command: tuple[str, ...], options: dict[str, Any]
) -> tuple[list[EvaluationRequest], tuple[str, ...]]:
    """What is asked for, and what of a pasted command it does not hold."""
    given = request_fields({name: value for name, value in options.items() if value is not None})
    if command and config is not None:
        raise InvalidRequestError("give one of --config and a command of lmms-eval")
    if command:
        pasted = read_command(command, given)
        return [pasted.request], pasted.left_out
    if config is not None:
        return read_lmms_eval_config(config, given), ()
    if not given:
        raise InvalidRequestError(
            "say what to evaluate, for example --model models:/NAME/1 --tasks digits_vqa; "
            "`mlflow-lmms submit --help` lists the options"
        )
    return [EvaluationRequest.parse(given)], ()
