"""GPU side: the queue worker, its slots and the runner process.

`GpuWorker` and `SafeJob` are what ``rq worker -w worker.GpuWorker -j worker.SafeJob`` names. They are imported when
they are asked for: `worker.runner` is started under Pythons that have neither rq nor MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.gpu_worker import GpuWorker
    from worker.safe_job import SafeJob

__all__ = ["GpuWorker", "SafeJob"]


def __getattr__(name: str) -> Any:
    if name == "GpuWorker":
        from worker.gpu_worker import GpuWorker

        return GpuWorker
    if name == "SafeJob":
        from worker.safe_job import SafeJob

        return SafeJob
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
