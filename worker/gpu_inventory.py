"""The GPUs of this box as NVML tells them; what goes wrong is classified and told, never fatal.

It asks the driver only (`pynvml` of the package nvidia-ml-py) and never starts CUDA, which would break forked
children. Who works on which GPU is not known here.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from mlflow_lmms.errors import ConfigurationError


class GpuProblem(StrEnum):
    """Why GPUs, or facts about one, could not be had."""

    NO_BINDING = "no_binding"
    NO_DRIVER = "no_driver"
    NO_PERMISSION = "no_permission"
    LOST = "lost"
    UNSUPPORTED = "unsupported"
    OTHER = "other"


#: NVML's error numbers; the binding makes an exception class for each only when it is first asked for.
_PROBLEMS = {
    3: GpuProblem.UNSUPPORTED,
    4: GpuProblem.NO_PERMISSION,
    9: GpuProblem.NO_DRIVER,
    12: GpuProblem.NO_DRIVER,
    13: GpuProblem.UNSUPPORTED,
    15: GpuProblem.LOST,
    16: GpuProblem.LOST,
    28: GpuProblem.LOST,
}


@dataclass(frozen=True)
class Gpu:
    """One GPU; `index` is NVML's (the order on the PCI bus), `memory` in bytes, 0 when the driver does not tell."""

    index: int
    uuid: str
    name: str
    memory: int


@dataclass(frozen=True)
class Trouble:
    """Something that NVML refused."""

    problem: GpuProblem
    message: str


@dataclass(frozen=True)
class Inventory:
    """The GPUs that can be used, and what went wrong on the way."""

    gpus: tuple[Gpu, ...] = ()
    troubles: tuple[Trouble, ...] = ()


class GpuProbe(Protocol):
    """Somebody who can tell the GPUs of this box."""

    def inventory(self) -> Inventory:
        """The GPUs as they are now; it never raises."""


class NvmlProbe:
    """Asks NVML through nvidia-ml-py, which needs no more than the driver's library."""

    def inventory(self) -> Inventory:
        """The GPUs as they are now; it never raises."""
        try:
            nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            missing = "the package nvidia-ml-py is not installed: pip install 'mlflow-lmms[worker]'"
            return Inventory(troubles=(Trouble(GpuProblem.NO_BINDING, missing),))
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return Inventory(troubles=(_trouble(error, "NVML does not start"),))
        try:
            return _devices(nvml)
        finally:
            nvml.nvmlShutdown()


def _devices(nvml: Any) -> Inventory:
    try:
        count = int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        return Inventory(troubles=(_trouble(error, "the GPUs cannot be counted"),))
    gpus, troubles = [], []
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError as error:
            troubles.append(_trouble(error, f"GPU {index} is left out"))
            continue
        try:
            memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        except nvml.NVMLError as error:  # some boards share the machine's memory and tell none
            troubles.append(_trouble(error, f"GPU {index} does not tell its memory"))
            memory = 0
        gpus.append(Gpu(index, uuid, name, memory))
    return Inventory(tuple(gpus), tuple(troubles))


def _trouble(error: Any, what: str) -> Trouble:
    return Trouble(_PROBLEMS.get(int(error.value), GpuProblem.OTHER), f"{what}: {error}")


def choose_gpus(wanted: str, inventory: Inventory) -> tuple[Gpu, ...]:
    """The GPUs that `wanted` names: ``all``, ``none``, or indices and UUIDs (or their beginnings), comma separated.

    Raises:
        ConfigurationError: naming the one that is not there, what there is, and what went wrong with NVML.
    """
    text = wanted.strip().lower()
    if text in ("none", ""):
        return ()
    if text == "all":
        return inventory.gpus
    chosen: dict[str, Gpu] = {}
    for word in (word.strip() for word in wanted.split(",") if word.strip()):
        fitting = _named(word, inventory.gpus)
        if len(fitting) != 1:
            there = ", ".join(f"{gpu.index} ({gpu.uuid}, {gpu.name})" for gpu in inventory.gpus) or "no GPU at all"
            why = "".join(f"; {trouble.message}" for trouble in inventory.troubles)
            several = "is not the beginning of one GPU's UUID only" if fitting else "is not on this box"
            raise ConfigurationError(f"--gpus {word} {several}, which has {there}{why}")
        chosen[fitting[0].uuid] = fitting[0]
    return tuple(chosen.values())


def _named(word: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    if word.isdigit():
        return [gpu for gpu in gpus if gpu.index == int(word)]
    return [gpu for gpu in gpus if gpu.uuid.lower().startswith(word.lower())]
