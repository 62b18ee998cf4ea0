"""The command ``mlflow-lmms worker``: options, and what the machine's batch system gives, into a box's supervisor."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.settings import Settings
from worker.allocation import Allocation, allocation_of, visible_gpus
from worker.box_end import end_of
from worker.cgroup_limits import cpu_limit, memory_limit
from worker.gpu_inventory import Gpu, GpuProblem, Inventory, choose_gpus
from worker.gpu_watch import GpuWatch
from worker.server_check import check_server

_MEMORY_OF_A_SLOT = 4 << 30


@click.command()
@click.option("--gpus", metavar="all|none|0,1|UUIDs", help="Default: those of CUDA_VISIBLE_DEVICES, or all.")
@click.option("--cpu-slots", type=click.IntRange(0, 256), help="Evaluations without GPU at once.")
@click.option("--share-gpus/--no-share-gpus", default=None, help="Whether evaluations may share a GPU by memory.")
@click.option(
    "--environment", "environments", multiple=True, metavar="NAME=PYTHON", help="An evaluation environment."
)
@click.option("--label", "labels", multiple=True, help="A word that evaluations may ask for.")
@click.option("--until", metavar="TIME", help="Stop in time before it: 2026-03-01T18:00, 18:00, 90m, 1h30m.")
@click.option("--exit-when-idle", is_flag=True, help="End when nothing waits that this box can run.")
@click.option(
    "--drain/--no-drain", default=None, help="Wait for what runs when told to stop (default), or give it back."
)
@click.option("--drain-for", type=click.FloatRange(0), metavar="SECONDS", help="Wait so long, then give it back.")
@click.option("--box", help="Name of this box; default: the host's.")
@click.option("--redis-url", help="Queue server.")
@click.option("--server-url", help="MLflow server.")
@click.option(
    "--data-folder", type=click.Path(path_type=Path, file_okay=False), help="Results and models of this box."
)
def worker(
    gpus: str | None,
    environments: tuple[str, ...],
    labels: tuple[str, ...],
    until: str | None,
    exit_when_idle: bool,
    drain: bool | None,
    drain_for: float | None,
    **given: Any,
) -> None:
    """Run evaluations on this machine: CPU slots, and a slot for each GPU.

    Ctrl-C once: finish what runs. Twice: give it back to the queue. Settings are environment variables
    MLFLOW_LMMS_…; the server's sign-in is MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN.
    """
    from worker.supervisor import BoxPlan, BoxSupervisor

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    allocation = allocation_of(os.environ)
    settings = _settings(given, environments, labels, allocation)
    plan = BoxPlan(
        until=end_of(until, time.time()) if until is not None else allocation.until,
        exit_when_idle=exit_when_idle,
        drain_s=_drain_s(drain, drain_for, allocation),
        for_a_while=allocation.name != "",
        labels=allocation.labels,
    )
    EvaluationQueue(settings.redis_address).ping()
    check_server(settings.server_url)
    watch = GpuWatch()
    watch.start()
    chosen, more = _choose(gpus, allocation, watch.first())
    if chosen and allocation.system == "slurm" and "cpu_slots" not in settings.model_fields_set:
        settings = settings.model_copy(update={"cpu_slots": 0})
    _respect_limits(settings.cpu_slots + len(chosen))
    told = ", ".join(f"{gpu.index} {gpu.name}" for gpu in chosen) or "none"
    click.echo(f"box {settings.box}: CPU slots: {settings.cpu_slots}, GPUs: {told}; {settings.server_url}", err=True)
    BoxSupervisor(settings, chosen, watch, plan, more).run()


def _settings(
    given: dict[str, Any], environments: tuple[str, ...], labels: tuple[str, ...], allocation: Allocation
) -> Settings:
    settings = Settings.load(**given)
    settings = Settings.load(**given, labels=(*settings.labels, *labels))  # once more: labels are checked too
    more = {"environments": {**settings.environments, **_pairs(environments)}, "box": allocation.box(settings.box)}
    return settings.model_copy(update=more)


def _drain_s(drain: bool | None, drain_for: float | None, allocation: Allocation) -> float | None:
    """Seconds that work may run on; where a kill follows a request to stop, none unless the owner says so."""
    if drain_for is not None:
        if drain is False:
            raise ConfigurationError("--drain-for and --no-drain say two things: give one of them")
        return drain_for
    return None if (drain if drain is not None else not allocation.forced_end) else 0.0


def _choose(
    gpus: str | None, allocation: Allocation, inventory: Inventory
) -> tuple[tuple[Gpu, ...], Callable[[Inventory], tuple[Gpu, ...]] | None]:
    """The GPUs to begin with, and how to find more later: where all are wanted, a driver may come up late."""
    if gpus is None and allocation.visible is not None:
        return visible_gpus(allocation.visible, inventory), None
    if gpus is not None and gpus.strip().lower() != "all":
        return choose_gpus(gpus, inventory), None
    for trouble in inventory.troubles:
        if gpus is not None and trouble.problem in (GpuProblem.NO_DRIVER, GpuProblem.NO_BINDING):
            raise ConfigurationError(f"--gpus all: {trouble.message}")
    return inventory.gpus, lambda later: later.gpus


def _respect_limits(slots: int) -> None:
    """Keep libraries from starting a thread for each processor of the machine where a quota allows fewer."""
    cpus, memory = cpu_limit(), memory_limit()
    if cpus < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(cpus / max(1, slots)))))
    if memory is not None and memory < slots * _MEMORY_OF_A_SLOT:
        click.echo(
            f"this box may use {memory / (1 << 30):.1f} GiB of memory for {slots} slots, which is little: the kernel "
            "may kill evaluations; give it more, or fewer slots",
            err=True,
        )


def _pairs(environments: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in environments:
        name, equals, python = text.partition("=")
        if not equals or not name or not os.access(python, os.X_OK):
            raise ConfigurationError(f"--environment is NAME=PYTHON with a Python that can be run, got {text!r}")
        found[name] = str(Path(python).absolute())
    return found
