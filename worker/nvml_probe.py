"""Asks the driver (NVML, through `pynvml` of the package nvidia-ml-py) for the GPUs; a refusal is told, never fatal.

It never starts CUDA, which would break forked children. What is done with the answer is not known here.
Hazard: a driver in trouble may not answer for ever. Who must not wait asks from a thread or process of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from worker.gpu_inventory import Gpu, GpuProblem, GpuProcess, Inventory, Trouble

#: NVML's error numbers; the binding makes an exception class for each only when it is first asked for.
_PROBLEMS = {
    3: GpuProblem.UNSUPPORTED,
    4: GpuProblem.NO_PERMISSION,
    9: GpuProblem.NO_DRIVER,
    10: GpuProblem.NO_ANSWER,
    12: GpuProblem.NO_DRIVER,
    13: GpuProblem.UNSUPPORTED,
    15: GpuProblem.LOST,
    16: GpuProblem.LOST,
    18: GpuProblem.NO_DRIVER,
    28: GpuProblem.LOST,
}
#: After one of these the driver has to be asked from the beginning.
_STALE = (GpuProblem.NO_DRIVER, GpuProblem.LOST, GpuProblem.NO_ANSWER, GpuProblem.OTHER)
_UNINITIALIZED = 1
_TEMPERATURE_OF_THE_CHIP = 0
_SPLIT = 1


class NvmlProbe:
    """One asker; its connection to the driver stays open while all goes well, because opening it may take seconds."""

    def __init__(self) -> None:
        self._nvml: Any = None

    def inventory(self) -> Inventory:
        """The GPUs as they are now; it never raises."""
        if self._nvml is None and (trouble := self._open()) is not None:
            return Inventory(troubles=(trouble,))
        found = _devices(self._nvml)
        if not found.gpus or any(trouble.problem in _STALE for trouble in found.troubles):
            self.close()
        return found

    def _open(self) -> Trouble | None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            missing = "the package nvidia-ml-py is not installed: pip install 'mlflow-lmms[worker]'"
            return Trouble(GpuProblem.NO_BINDING, missing)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return _trouble(error, "NVML does not start")
        self._nvml = nvml
        return None

    def close(self) -> None:
        """Let go of the driver."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError as error:
                if int(error.value) != _UNINITIALIZED:
                    return  # it is in trouble, and asked from the beginning next time


def _devices(nvml: Any) -> Inventory:
    try:
        count = int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        return Inventory(troubles=(_trouble(error, "the GPUs cannot be counted"),))
    gpus: list[Gpu | None] = []
    troubles: list[Trouble] = []
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            parent = _text(nvml.nvmlDeviceGetUUID(handle)) if _is_split(nvml, handle) else None
        except nvml.NVMLError as error:
            troubles.append(_trouble(error, f"GPU {index} is left out", index))
            continue
        if parent is None:
            gpus.append(_gpu(nvml, handle, index, troubles))
            continue
        slices = list(_slices(nvml, handle))
        gpus += [_gpu(nvml, item, index, troubles, parent) for item in slices]
        if not slices:
            message = f"GPU {index} ({parent}) is in MIG mode and has no slice: make some with nvidia-smi mig"
            troubles.append(Trouble(GpuProblem.SPLIT, message, index))
    return Inventory(tuple(gpu for gpu in gpus if gpu is not None), tuple(troubles))


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        return int(nvml.nvmlDeviceGetMigMode(handle)[0]) == _SPLIT
    except nvml.NVMLError:  # most GPUs cannot be split, and old drivers do not know of it
        return False


def _slices(nvml: Any, handle: Any) -> Iterator[Any]:
    try:
        most = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except nvml.NVMLError:
        return
    for number in range(most):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError:  # this place has no slice
            continue


class _Questions:
    """Questions about one device; what is refused is remembered."""

    def __init__(self, nvml: Any, handle: Any, index: int) -> None:
        self._nvml, self._handle, self._index = nvml, handle, index
        self.refused: dict[str, Trouble] = {}

    def ask(self, what: str, question: Callable[..., Any], *more: Any) -> Any:
        """The answer, or None."""
        try:
            return question(self._handle, *more)
        except self._nvml.NVMLError as error:
            self.refused[what] = _trouble(error, f"GPU {self._index} does not tell its {what}", self._index)
            return None

    def trouble(self) -> Trouble | None:
        """What matters of it: a lost GPU most; that a board has no sensor, not at all."""
        refused = self.refused
        lost = next((trouble for trouble in refused.values() if trouble.problem is GpuProblem.LOST), None)
        matters = [refused[what] for what in ("UUID", "memory") if what in refused]
        odd = [trouble for trouble in refused.values() if trouble.problem is not GpuProblem.UNSUPPORTED]
        return lost or next(iter([*matters, *odd]), None)


def _gpu(nvml: Any, handle: Any, index: int, troubles: list[Trouble], parent: str | None = None) -> Gpu | None:
    """One device; None when not even its UUID is told."""
    questions = _Questions(nvml, handle, index)
    uuid = questions.ask("UUID", nvml.nvmlDeviceGetUUID)
    name = questions.ask("name", nvml.nvmlDeviceGetName)
    memory = questions.ask("memory", lambda device: _memory(nvml, device))
    rates = questions.ask("utilisation", nvml.nvmlDeviceGetUtilizationRates)
    temperature = questions.ask("temperature", nvml.nvmlDeviceGetTemperature, _TEMPERATURE_OF_THE_CHIP)
    power = questions.ask("power", nvml.nvmlDeviceGetPowerUsage)
    processes = questions.ask("processes", lambda device: _processes(nvml, device))
    if (trouble := questions.trouble()) is not None:
        troubles.append(trouble)
    if uuid is None:
        return None
    total, used = memory or (0, None)
    return Gpu(
        index=index,
        uuid=_text(uuid),
        name=_text(name) if name is not None else "unknown GPU",
        memory=total,
        used=used,
        processes=processes,
        utilisation=float(rates.gpu) if rates is not None else None,
        temperature=float(temperature) if temperature is not None else None,
        power_w=power / 1000 if power is not None else None,
        is_slice=parent is not None,
        parent=parent,
        usable=trouble is None or trouble.problem is not GpuProblem.LOST,
        problem=trouble.problem if trouble is not None else None,
    )


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """All and used bytes. The first version of the question counts what the driver keeps (up to 1 GB) as used."""
    try:
        told = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError:
        told = nvml.nvmlDeviceGetMemoryInfo(handle)
    return int(told.total), int(told.used)


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    found: dict[int, int | None] = {}
    for process in (*_computing(nvml, handle), *_drawing(nvml, handle)):
        memory = process.usedGpuMemory
        found[int(process.pid)] = int(memory) if memory is not None else None
    return tuple(GpuProcess(pid, memory) for pid, memory in sorted(found.items()))


def _computing(nvml: Any, handle: Any) -> list[Any]:
    # Versions are named: the binding's own word for the newest raises something else with an older driver.
    try:
        return list(nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))
    except nvml.NVMLError as error:
        if _problem(error) is not GpuProblem.UNSUPPORTED:
            raise
        return list(nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle))


def _drawing(nvml: Any, handle: Any) -> list[Any]:
    try:
        return list(nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle))
    except nvml.NVMLError:  # computing boards and slices have none
        return []


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _problem(error: Any) -> GpuProblem:
    return _PROBLEMS.get(int(error.value), GpuProblem.OTHER)


def _trouble(error: Any, what: str, index: int | None = None) -> Trouble:
    return Trouble(_problem(error), f"{what}: {error}", index)
