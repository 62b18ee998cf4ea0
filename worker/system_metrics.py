"""Writes a part's GPU samples into its MLflow run as MLflow's own system metrics, so that MLflow's page shows them.

For watching only: when the server does not answer, the newest wait for it and the oldest are dropped.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from worker.telemetry import GpuSample, Sample

logger = logging.getLogger(__name__)

_EVERY_S = 10.0
_LAST_WORD_S = 5.0
_MOST_WAITING = 1000
#: The part that every run has; others are told apart as MLflow tells the machines of one run apart.
_FIRST_PART = "0"


class SystemMetrics:
    """One part's system metrics; a thread of its own speaks to the server."""

    def __init__(self, client: MlflowClient, run_id: str, part: str, *, every_s: float = _EVERY_S) -> None:
        """Start."""
        self._client = client
        self._run_id = run_id
        self._prefix = "system/" if part == _FIRST_PART else f"system/{part}/"
        self._every_s = every_s
        self._samples: deque[Sample] = deque(maxlen=_MOST_WAITING)
        self._waiting: deque[Metric] = deque(maxlen=_MOST_WAITING)
        self._began_at: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="system metrics", daemon=True)
        self._thread.start()

    def add(self, sample: Sample) -> None:
        """Take a sample; returns at once."""
        self._samples.append(sample)

    def close(self) -> None:
        """Write what is left, if the server takes it soon."""
        self._closed.set()
        self._thread.join(_LAST_WORD_S)

    def _write_on(self) -> None:
        while True:
            last = self._closed.wait(self._every_s)
            self._write()
            if last:
                return

    def _write(self) -> None:
        samples = [self._samples.popleft() for _ in range(len(self._samples))]
        try:
            if self._began_at is None and (samples or self._waiting):
                self._began_at = self._client.get_run(self._run_id).info.start_time / 1000
            if samples and self._began_at is not None:
                self._waiting.extend(self._metrics(samples, self._began_at))
            if self._waiting:
                self._client.log_batch(self._run_id, metrics=list(self._waiting))
                self._waiting.clear()
        except MlflowException as error:
            logger.info("no system metrics for %s now: %s", self._run_id, error)

    def _metrics(self, samples: list[Sample], began_at: float) -> Iterator[Metric]:
        at = samples[-1].at
        step = max(0, int(at - began_at))  # seconds: grows from attempt to attempt, and from part to part alike
        for name, value in average(samples):
            yield Metric(self._prefix + name, value, int(at * 1000), step)


def average(samples: Iterable[Sample]) -> list[tuple[str, float]]:
    """The mean of each figure over the samples, under MLflow's names, rounded as MLflow does."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        for gpu in sample.gpus:
            for name, value in _figures(gpu):
                found.setdefault(f"gpu_{gpu.index}_{name}", []).append(value)
    return [(name, round(sum(values) / len(values), 1)) for name, values in found.items()]


def _figures(gpu: GpuSample) -> Iterator[tuple[str, float]]:
    if gpu.memory is not None:
        yield "memory_usage_megabytes", gpu.memory / 1e6
        if gpu.memory_total:
            yield "memory_usage_percentage", 100 * gpu.memory / gpu.memory_total
    if gpu.utilisation is not None:
        yield "utilization_percentage", gpu.utilisation
    if gpu.power_w is not None:
        yield "power_usage_watts", gpu.power_w
