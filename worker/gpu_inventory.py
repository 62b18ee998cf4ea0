"""The GPUs of a box as values: what each is and does now, what went wrong, and which of them an owner names.

Nothing here asks the driver (`worker.nvml_probe`), and who works on which GPU is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import TypeAdapter

from mlflow_lmms.errors import ConfigurationError


class GpuProblem(StrEnum):
    """Why GPUs, or facts about one, could not be had."""

    NO_BINDING = "no_binding"
    NO_DRIVER = "no_driver"
    NO_PERMISSION = "no_permission"
    LOST = "lost"
    UNSUPPORTED = "unsupported"
    NO_ANSWER = "no_answer"
    SPLIT = "split"
    OTHER = "other"


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses a GPU, with the driver's number of it; `memory` in bytes, None when it is not told."""

    pid: int
    memory: int | None = None


@dataclass(frozen=True)
class Gpu:
    """One device: a GPU, or a slice of one (MIG); what the driver does not tell is None, its memory then 0.

    Attributes:
        index: NVML's, the order on the PCI bus; a slice has its GPU's.
        memory: bytes; `used` are those in use, without what the driver keeps for itself where it tells them apart.
        processes: who uses it, by the process numbers that the driver sees: those of the machine.
        utilisation: percent of the time since the last question in which something ran on it.
    """

    index: int
    uuid: str
    name: str
    memory: int
    used: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    utilisation: float | None = None
    temperature: float | None = None
    power_w: float | None = None
    is_slice: bool = False
    parent: str | None = None
    usable: bool = True
    problem: GpuProblem | None = None


@dataclass(frozen=True)
class Trouble:
    """Something that NVML refused, or all of it when `index` is None."""

    problem: GpuProblem
    message: str
    index: int | None = None


@dataclass(frozen=True)
class Inventory:
    """The devices that can be leased, and what went wrong on the way."""

    gpus: tuple[Gpu, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    def of(self, uuid: str) -> Gpu | None:
        """The device with this UUID, if it is there."""
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)


#: Between the process that asks the driver and the one that wants to know.
INVENTORY_JSON = TypeAdapter(Inventory)


class GpuProbe(Protocol):
    """Somebody who can tell the GPUs of this box."""

    def inventory(self) -> Inventory:
        """The GPUs as they are now; it never raises."""


def choose_gpus(wanted: str, inventory: Inventory) -> tuple[Gpu, ...]:
    """The GPUs that `wanted` names: ``all``, ``none``, or indices and UUIDs (or their beginnings), comma separated.

    The index of a GPU that is split into slices names all of its slices.

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
        if not fitting or (len(fitting) > 1 and not _slices_of_one(fitting)):
            there = ", ".join(f"{gpu.index} ({gpu.uuid}, {gpu.name})" for gpu in inventory.gpus) or "no GPU at all"
            why = "".join(f"; {trouble.message}" for trouble in inventory.troubles)
            several = "is not the beginning of one GPU's UUID only" if fitting else "is not on this box"
            raise ConfigurationError(f"--gpus {word} {several}, which has {there}{why}")
        chosen.update((gpu.uuid, gpu) for gpu in fitting)
    return tuple(chosen.values())


def _named(word: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    if word.isdigit():
        return [gpu for gpu in gpus if gpu.index == int(word)]
    small = word.lower()
    return [gpu for gpu in gpus if gpu.uuid.lower().startswith(small)] or [
        gpu for gpu in gpus if gpu.is_slice and (gpu.parent or "").lower() == small
    ]


def _slices_of_one(gpus: Sequence[Gpu]) -> bool:
    return all(gpu.is_slice for gpu in gpus) and len({gpu.parent for gpu in gpus}) == 1
