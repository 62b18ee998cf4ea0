"""What a batch system has given this process: Slurm's and Kubernetes' words, read once. Values in, values out.

A worker inside an allocation uses that and no more of the machine, for as long as it lasts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlflow_lmms.errors import ConfigurationError
from worker.gpu_inventory import Gpu, Inventory

_NO_GPU = ("", "-1", "none", "void", "nodevfiles", "no_dev_files")
_UUID = re.compile(r"(GPU|MIG)-", re.IGNORECASE)


@dataclass(frozen=True)
class Allocation:
    """What was given.

    Attributes:
        name: what tells it from other allocations on the same machine.
        visible: the GPUs as CUDA's variable names them; None: all that the driver lists.
        until: when it ends, in unix seconds.
    """

    system: Literal["slurm", "kubernetes"] | None = None
    name: str = ""
    visible: str | None = None
    until: float | None = None
    labels: tuple[str, ...] = ()

    @property
    def forced_end(self) -> bool:
        """Whether a request to stop is soon followed by a kill, so that nothing can be waited for."""
        return self.system is not None

    def box(self, name: str) -> str:
        """The box's name: every allocation is a box of its own."""
        return f"{name}-{self.name}" if self.name else name


def allocation_of(environ: Mapping[str, str]) -> Allocation:
    """Read the allocation from the environment of a process in it."""
    if "SLURM_JOB_ID" in environ:
        return _slurm(environ)
    inside = "KUBERNETES_SERVICE_HOST" in environ
    return Allocation(
        system="kubernetes" if inside else None,
        visible=_visible(environ),
        labels=("kubernetes",) if inside else (),  # a pod's host name is its own already
    )


def _slurm(environ: Mapping[str, str]) -> Allocation:
    job = environ["SLURM_JOB_ID"]
    several = environ.get("SLURM_NTASKS", "1") != "1"
    end = environ.get("SLURM_JOB_END_TIME", "")
    partition = environ.get("SLURM_JOB_PARTITION")
    visible = _visible(environ)
    if visible is None and not any(environ.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")):
        visible = "none"  # without limits on devices the driver would list those of other jobs
    return Allocation(
        system="slurm",
        name=f"slurm{job}" + (f"-{environ.get('SLURM_PROCID', '0')}" if several else ""),
        visible=visible,
        until=float(end) if end.isdigit() else None,
        labels=("slurm", *([f"partition={partition}"] if partition else [])),
    )


def _visible(environ: Mapping[str, str]) -> str | None:
    if "CUDA_VISIBLE_DEVICES" in environ:
        return environ["CUDA_VISIBLE_DEVICES"]
    # The container runtime has obeyed its variable already, except in containers that see all devices; its indices
    # are the machine's and mean nothing inside.
    told = environ.get("NVIDIA_VISIBLE_DEVICES", "")
    return told if _UUID.match(told) or told == "none" else None


def visible_gpus(words: str, inventory: Inventory) -> tuple[Gpu, ...]:
    """The GPUs that CUDA's variable names, by CUDA's rules: an index counts those that this process may use.

    Raises:
        ConfigurationError: one that it names is not there; with what there is.
    """
    physical: dict[int, list[Gpu]] = {}
    for gpu in sorted(inventory.gpus, key=lambda gpu: gpu.index):
        physical.setdefault(gpu.index, []).append(gpu)
    order = list(physical.values())
    chosen: dict[str, Gpu] = {}
    for word in (word.strip() for word in words.split(",")):
        if word.lower() in _NO_GPU:
            break
        if word.isdigit():
            found = order[int(word)] if int(word) < len(order) else []
        else:
            found = [gpu for gpu in inventory.gpus if gpu.uuid.lower().startswith(word.lower())]
        if not found:
            there = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in inventory.gpus) or "no GPU"
            why = "".join(f"; {trouble.message}" for trouble in inventory.troubles)
            raise ConfigurationError(
                f"CUDA_VISIBLE_DEVICES names {word}, and the driver lists {there}{why}: correct it, or name the GPUs "
                "with --gpus"
            )
        chosen.update((gpu.uuid, gpu) for gpu in found)
    return tuple(chosen.values())
