"""Boxes that tests announce without a supervisor, and a queue server that is taken for long at work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis

from mlflow_lmms.planner.fleet import GIB
from mlflow_lmms.queue_keys import SERVER_RUN_KEY, BoxReport, GpuReport, box_key

A100 = "NVIDIA A100-SXM4-80GB"


def announce(connection: redis.Redis, box: str, gpus: Iterable[str | GpuReport] = (), **facts: Any) -> BoxReport:
    """Announce a box for good, with one slot for each GPU and some for work without."""
    reports = tuple(gpu if isinstance(gpu, GpuReport) else GpuReport(gpu, A100, 80 * GIB) for gpu in gpus)
    report = BoxReport(**{"box": box, "cpu_slots": 8, "gpu_slots": len(reports), "gpus": reports, **facts})
    fields: dict[Any, Any] = report.fields()
    connection.hset(box_key(box), mapping=fields)
    return report


def open_claims(connection: redis.Redis) -> None:
    """Let the first claim after a flush not wait as after a restart."""
    info: Any = connection.info("server")
    connection.set(SERVER_RUN_KEY, info["run_id"])
