"""GPU samples of a part: their sums, live events, and MLflow's system metrics in a real MLflow store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from worker.gpu_inventory import Gpu, GpuProblem, Inventory, Trouble
from worker.system_metrics import SystemMetrics, average
from worker.telemetry import GpuSample, GpuSums, GpuTelemetry, Sample

GIB = 1 << 30


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def sample(
    index: int = 0,
    *,
    utilisation: float | None = None,
    memory: int | None = None,
    power_w: float | None = None,
) -> GpuSample:
    return GpuSample(index, f"GPU-{index}", "A", 80 * GIB, utilisation, memory, 50.0, power_w)


class Script:
    """A driver that tells one inventory after the other, then hangs."""

    def __init__(self, *answers: Inventory) -> None:
        self._answers = list(answers)
        self.hangs = threading.Event()

    def inventory(self) -> Inventory:
        if self._answers:
            return self._answers.pop(0)
        self.hangs.set()
        threading.Event().wait(60)
        return Inventory()


def gpu(number: int, used: int, power_w: float | None = None, utilisation: float | None = None) -> Gpu:
    return Gpu(number, f"GPU-{number}", "A", 80 * GIB, used=used, power_w=power_w, utilisation=utilisation)


def test_power_is_added_by_trapezoids_and_utilisation_by_time() -> None:
    sums = GpuSums()
    sums.add(0.0, sample(power_w=100.0, utilisation=0.0, memory=1))
    sums.add(2.0, sample(power_w=300.0, utilisation=50.0, memory=9))
    sums.add(4.0, sample())  # the driver refused
    sums.add(8.0, sample(power_w=300.0, utilisation=100.0, memory=5))
    assert sums.energy_j == pytest.approx(2 * 200 + 6 * 300)
    assert (sums.busy_s, sums.watched_s) == pytest.approx((1 + 6, 8))
    assert sums.peak_memory == 9


def test_what_the_driver_never_tells_stays_unknown() -> None:
    sums = GpuSums()
    for second in range(3):
        sums.add(float(second), sample())
    assert (sums.energy_j, sums.peak_memory, sums.watched_s) == (None, None, 0.0)


def test_a_part_is_watched_through_a_lost_gpu_and_a_hanging_driver() -> None:
    lost = Inventory((gpu(1, 2 * GIB, 50.0, 10.0),), (Trouble(GpuProblem.LOST, "GPU 0 is left out", 0),))
    both = Inventory((gpu(0, 5 * GIB, 100.0, 90.0), gpu(1, GIB, 50.0, 10.0)))
    probe = Script(both, Inventory(), lost, both)
    seen: list[Sample] = []
    telemetry = GpuTelemetry(("GPU-1", "GPU-0"), seen.append, mark="run#1", every_s=0.05, probe=probe)
    telemetry.start()
    assert probe.hangs.wait(10)
    began = time.monotonic()
    telemetry.stop()
    assert time.monotonic() - began < 4, "a driver that hangs is not waited for"
    assert [[item.index for item in one.gpus] for one in seen] == [[0, 1], [0], [0, 1]]
    event = seen[0].event()["gpus"]
    assert [(item["uuid"], item["memory"], item["power_w"]) for item in event] == [
        ("GPU-1", GIB, 50.0),
        ("GPU-0", 5 * GIB, 100.0),
    ]
    use = telemetry.summary()
    assert use.peak_memory == 5 * GIB
    assert use.mean_utilisation == pytest.approx(50.0)
    assert use.energy_j is not None
    assert use.energy_j > 0
    assert use.gpu_seconds == telemetry.summary().gpu_seconds > 0


def test_without_a_driver_only_the_time_is_known() -> None:
    none = Inventory(troubles=(Trouble(GpuProblem.NO_DRIVER, "no driver"),))
    probe = Script(none, none)
    seen: list[Sample] = []
    telemetry = GpuTelemetry(("GPU-0", "GPU-1"), seen.append, mark="run#1", every_s=0.01, probe=probe)
    telemetry.start()
    assert probe.hangs.wait(10)
    telemetry.stop()
    use = telemetry.summary()
    assert (seen, use.peak_memory, use.mean_utilisation, use.energy_j) == ([], None, None, None)
    assert use.gpu_seconds > 0.02


def test_work_without_gpus_asks_no_driver() -> None:
    probe = Script()
    telemetry = GpuTelemetry((), lambda found: None, mark="run#1", probe=probe)
    telemetry.start()
    telemetry.stop()
    assert telemetry.summary().gpu_seconds == 0
    assert not probe.hangs.is_set()


def test_figures_have_mlflow_s_names_and_rounding() -> None:
    samples = [
        Sample(1.0, (sample(0, utilisation=90.0, memory=40 * GIB, power_w=300.0), sample(1, memory=0))),
        Sample(2.0, (sample(0, utilisation=95.1, memory=40 * GIB), sample(1, memory=0))),
    ]
    assert dict(average(samples)) == {
        "gpu_0_memory_usage_megabytes": 42949.7,
        "gpu_0_memory_usage_percentage": 50.0,
        "gpu_0_utilization_percentage": 92.5,
        "gpu_0_power_usage_watts": 300.0,
        "gpu_1_memory_usage_megabytes": 0.0,
        "gpu_1_memory_usage_percentage": 0.0,
    }


def test_the_names_are_those_that_mlflow_itself_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    from unittest.mock import MagicMock

    from mlflow.system_metrics.metrics import gpu_monitor

    nvml = MagicMock()
    nvml.NVMLError = type("NVMLError", (Exception,), {})
    nvml.nvmlDeviceGetCount.return_value = 1
    nvml.nvmlDeviceGetMemoryInfo.return_value = MagicMock(used=GIB, total=2 * GIB)
    nvml.nvmlDeviceGetUtilizationRates.return_value = MagicMock(gpu=50)
    nvml.nvmlDeviceGetPowerUsage.return_value = 100_000
    nvml.nvmlDeviceGetEnforcedPowerLimit.return_value = 200_000
    monkeypatch.setattr(gpu_monitor, "pynvml", nvml, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    monitor: Any = gpu_monitor.GPUMonitor  # it has no types
    monitor = monitor()
    monitor.collect_metrics()
    theirs = monitor.aggregate_metrics()
    ours = dict(average([Sample(1.0, (GpuSample(0, "GPU-0", "A", 2 * GIB, 50.0, GIB, None, 100.0),))]))
    assert ours == {name: theirs[name] for name in ours}
    assert len(ours) == 4


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_samples_become_system_metrics_of_the_run(client: MlflowClient) -> None:
    run = client.create_run(client.create_experiment("e")).info
    first, second = SystemMetrics(client, run.run_id, "0", every_s=0.05), SystemMetrics(client, run.run_id, "1")
    began = run.start_time / 1000
    first.add(Sample(began + 12.5, (sample(utilisation=40.0),)))
    wait_for(lambda: client.get_run(run.run_id).data.metrics)
    first.add(Sample(began + 30.0, (sample(utilisation=60.0),)))
    second.add(Sample(began + 31.0, (sample(utilisation=70.0),)))
    first.close()
    second.close()
    history = client.get_metric_history(run.run_id, "system/gpu_0_utilization_percentage")
    assert [(point.value, point.step, point.timestamp) for point in history] == [
        (40.0, 12, int((began + 12.5) * 1000)),
        (60.0, 30, int((began + 30.0) * 1000)),
    ]
    assert client.get_run(run.run_id).data.metrics["system/1/gpu_0_utilization_percentage"] == 70.0


def test_what_an_absent_server_did_not_take_is_written_later(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    real, refused = client.log_batch, threading.Event()

    def refuse(*args: object, **options: object) -> None:
        refused.set()
        raise MlflowException("away")

    monkeypatch.setattr(client, "log_batch", refuse)
    metrics = SystemMetrics(client, run_id, "0", every_s=0.02)
    metrics.add(Sample(time.time(), (sample(power_w=100.0),)))
    assert refused.wait(10)
    monkeypatch.setattr(client, "log_batch", real)
    metrics.close()
    assert client.get_run(run_id).data.metrics == {"system/gpu_0_power_usage_watts": 100.0}
