"""The command ``mlflow-lmms worker``: options into settings, and the box's supervisor."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.settings import Settings
from worker.gpu_inventory import GpuProblem, choose_gpus
from worker.nvml_probe import NvmlProbe


@click.command()
@click.option("--gpus", metavar="all|none|0,1|UUIDs", help="Default: those of CUDA_VISIBLE_DEVICES, or all.")
@click.option("--cpu-slots", type=click.IntRange(0, 256), help="Evaluations without GPU at once.")
@click.option(
    "--environment", "environments", multiple=True, metavar="NAME=PYTHON", help="An evaluation environment."
)
@click.option("--exit-when-idle", is_flag=True, help="End when nothing waits that this box can run.")
@click.option("--drain/--no-drain", default=True, help="Wait for what runs when told to stop; else give it back.")
@click.option("--redis-url", help="Queue server.")
@click.option("--server-url", help="MLflow server.")
@click.option(
    "--data-folder", type=click.Path(path_type=Path, file_okay=False), help="Results and models of this box."
)
def worker(
    gpus: str | None,
    cpu_slots: int | None,
    environments: tuple[str, ...],
    exit_when_idle: bool,
    drain: bool,
    redis_url: str | None,
    server_url: str | None,
    data_folder: Path | None,
) -> None:
    """Run evaluations on this machine: CPU slots, and a slot for each GPU.

    Ctrl-C once: finish what runs. Twice: give it back to the queue. Settings are environment variables
    MLFLOW_LMMS_…; the server's sign-in is MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN.
    """
    from worker.supervisor import BoxSupervisor

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings.load(cpu_slots=cpu_slots, redis_url=redis_url, server_url=server_url, data_folder=data_folder)
    settings = settings.model_copy(update={"environments": {**settings.environments, **_pairs(environments)}})
    inventory = NvmlProbe().inventory()
    chosen = choose_gpus(gpus if gpus is not None else os.environ.get("CUDA_VISIBLE_DEVICES", "all"), inventory)
    for trouble in inventory.troubles:
        if trouble.problem not in (GpuProblem.NO_DRIVER, GpuProblem.NO_BINDING):
            click.echo(f"GPUs: {trouble.message}", err=True)
    EvaluationQueue(settings.redis_address).ping()
    told = ", ".join(f"{gpu.index} {gpu.name}" for gpu in chosen) or "none"
    click.echo(f"box {settings.box}: CPU slots: {settings.cpu_slots}, GPUs: {told}; {settings.server_url}", err=True)
    BoxSupervisor(settings, chosen, exit_when_idle=exit_when_idle, drain=drain).run()


def _pairs(environments: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in environments:
        name, equals, python = text.partition("=")
        if not equals or not name or not os.access(python, os.X_OK):
            raise ConfigurationError(f"--environment is NAME=PYTHON with a Python that can be run, got {text!r}")
        found[name] = str(Path(python).absolute())
    return found
