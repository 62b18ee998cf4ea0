"""What a part does to its GPUs: shown while it runs (live events, MLflow's system metrics), and its sum."""

from __future__ import annotations

from mlflow import MlflowClient

from mlflow_lmms.work_order import Use, WorkOrder
from worker.leases import Claim
from worker.live_part import LivePart
from worker.system_metrics import SystemMetrics
from worker.telemetry import GpuTelemetry, Sample


class PartTelemetry:
    """Watches the GPUs of one part; a part without any is not watched."""

    def __init__(self, order: WorkOrder, claim: Claim, live: LivePart, client: MlflowClient | None) -> None:
        self._order = order
        self._live = live
        self._client = client
        self._gpus = GpuTelemetry(claim.gpus, self._take, mark=claim.mark)
        self._watches = bool(claim.gpus)
        self._metrics: SystemMetrics | None = None

    def start(self) -> None:
        """Begin."""
        if self._watches and self._client is not None:
            self._metrics = SystemMetrics(self._client, self._order.run_id, self._order.part)
        self._gpus.start()

    def stop(self) -> None:
        """End."""
        self._gpus.stop()
        if self._metrics is not None:
            self._metrics.close()

    def use(self) -> Use:
        """What was used so far."""
        return self._gpus.summary()

    def _take(self, sample: Sample) -> None:
        self._live.gpu(sample.event())
        if self._metrics is not None:
            self._metrics.add(sample)
