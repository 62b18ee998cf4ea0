"""What a part does to its GPUs while it runs: samples of utilisation, memory and power, and their sum at the end.

Where samples go (live events, MLflow) is not known here. The driver may refuse or fall silent at any time: then
samples are missing, and nothing else happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_lmms.work_order import Use
from worker.gpu_inventory import Gpu, GpuProbe
from worker.gpu_processes import lease_of, own_memory
from worker.nvml_probe import NvmlProbe

_WAIT_S = 2.0


@dataclass(frozen=True)
class GpuSample:
    """One GPU of the part; `index` counts the part's GPUs from 0, None is what the driver does not tell."""

    index: int
    uuid: str
    name: str
    memory_total: int
    utilisation: float | None
    memory: int | None
    temperature: float | None
    power_w: float | None


@dataclass(frozen=True)
class Sample:
    """All GPUs of the part at one time (unix seconds)."""

    at: float
    gpus: tuple[GpuSample, ...]

    def event(self) -> dict[str, Any]:
        """The data of a live event."""
        return {"gpus": [asdict(gpu) for gpu in self.gpus]}


class GpuSums:
    """Adds up one GPU's samples: power by trapezoids, utilisation weighted by time. Values only."""

    def __init__(self) -> None:
        self.peak_memory: int | None = None
        self.energy_j: float | None = None
        self.busy_s = 0.0
        self.watched_s = 0.0
        self._power: tuple[float, float] | None = None
        self._utilisation_at: float | None = None

    def add(self, at: float, sample: GpuSample) -> None:
        """Take one sample, later than those before."""
        if sample.memory is not None:
            self.peak_memory = max(self.peak_memory or 0, sample.memory)
        if sample.power_w is not None:
            if self._power is not None:
                before, power = self._power
                self.energy_j = (self.energy_j or 0.0) + (at - before) * (power + sample.power_w) / 2
            self._power = (at, sample.power_w)
        if sample.utilisation is not None:
            # The driver tells of the time before the question.
            if self._utilisation_at is not None:
                self.watched_s += at - self._utilisation_at
                self.busy_s += (at - self._utilisation_at) * sample.utilisation / 100
            self._utilisation_at = at


class GpuTelemetry:
    """Samples the GPUs of one part from a thread of its own."""

    def __init__(
        self,
        gpus: tuple[str, ...],
        on_sample: Callable[[Sample], None],
        *,
        mark: str,
        every_s: float = 2.0,
        probe: GpuProbe | None = None,
    ) -> None:
        """Prepare; `mark` is the lease's, by which its processes are known. `on_sample` is called in the thread."""
        self._gpus = gpus
        self._on_sample = on_sample
        self._mark = mark
        self._every_s = every_s
        self._probe = probe or NvmlProbe()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._sums = {uuid: GpuSums() for uuid in gpus}
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._thread = threading.Thread(target=self._watch, name="gpu telemetry", daemon=True)

    def start(self) -> None:
        """Begin; without GPUs there is nothing to watch."""
        self._started_at = time.monotonic()
        if self._gpus:
            self._thread.start()

    def stop(self) -> None:
        """End; a driver that does not answer is not waited for."""
        self._ended_at = self._ended_at or time.monotonic()
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_WAIT_S)

    def summary(self) -> Use:
        """What was used so far."""
        if self._started_at is None:
            return Use()
        held_s = (self._ended_at or time.monotonic()) - self._started_at
        with self._lock:
            sums = list(self._sums.values())
            watched_s = sum(item.watched_s for item in sums)
            peaks = [item.peak_memory for item in sums if item.peak_memory is not None]
            energies = [item.energy_j for item in sums if item.energy_j is not None]
            busy_s = sum(item.busy_s for item in sums)
        return Use(
            gpu_seconds=held_s * len(self._gpus),
            peak_memory=max(peaks, default=None),
            mean_utilisation=100 * busy_s / watched_s if watched_s > 0 else None,
            energy_j=sum(energies) if energies else None,
        )

    def _watch(self) -> None:
        while True:
            sample = self._sample()
            if sample.gpus and not self._stopped.is_set():
                self._on_sample(sample)
            if self._stopped.wait(self._every_s):
                return

    def _sample(self) -> Sample:
        inventory = self._probe.inventory()
        found = [(number, inventory.of(uuid)) for number, uuid in enumerate(self._gpus)]
        sample = Sample(time.time(), tuple(self._gpu(number, gpu) for number, gpu in found if gpu is not None))
        clock = time.monotonic()
        with self._lock:
            for gpu in sample.gpus:
                self._sums[gpu.uuid].add(clock, gpu)
        return sample

    def _gpu(self, number: int, gpu: Gpu) -> GpuSample:
        memory = own_memory(gpu, lambda pid: lease_of(pid) == self._mark)
        return GpuSample(
            number, gpu.uuid, gpu.name, gpu.memory, gpu.utilisation, memory, gpu.temperature, gpu.power_w
        )
