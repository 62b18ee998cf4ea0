"""A made-up fleet in a queue server: boxes with GPUs in every condition, a lease, work that waits."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import redis
from fleet_boxes import announce

from mlflow_lmms.planner.fleet import GIB, Cause, Reservation, Wait
from mlflow_lmms.queue_keys import (
    KNOWN_BOXES_KEY,
    LEASES_KEY,
    RESERVATION_KEY,
    WAITS_KEY,
    BoxReport,
    GpuReport,
    job_id,
    known_json,
    lease_key,
    reservation_json,
)
from mlflow_lmms.work_order import PROTOCOL

BOX = "dgx-01"
_GPU = "NVIDIA H100 80GB HBM3"


def uuid(index: int) -> str:
    """The made-up box's GPU of this number."""
    return f"GPU-{BOX}-{index}"


def announce_fleet(connection: redis.Redis, version: str) -> None:
    """A box with a busy, an idle, a foreign and a lost GPU, one of an older release, and one that is away."""
    gpus = [
        GpuReport(uuid(0), _GPU, 80 * GIB, 18 * GIB, index=0, utilisation=93.0, temperature=64.0, power_w=612.0),
        GpuReport(uuid(1), _GPU, 80 * GIB, 80 * GIB, index=1, utilisation=0.0, temperature=33.0, power_w=71.0),
        GpuReport(uuid(2), _GPU, 80 * GIB, 30 * GIB, foreign=50 * GIB, index=2),
        GpuReport(uuid(3), _GPU, 80 * GIB, index=3, usable=False, problem="GPU is lost"),
    ]
    seen = {"labels": frozenset({"nvlink"}), "environments": frozenset({"vllm"})}
    announce(connection, BOX, gpus, version=version, protocol=PROTOCOL, **seen)
    announce(connection, "older-02", ["GPU-o"], version="0.0.9", protocol=PROTOCOL - 1)
    away = BoxReport("gone-03", 2, 1, (GpuReport("GPU-g", "NVIDIA RTX A6000", 48 * GIB),), version=version)
    for report, seen_at in ((away, time.time() - 7200),):
        connection.hset(KNOWN_BOXES_KEY, report.box, known_json(report, seen_at))


def lease(connection: redis.Redis, run_id: str, gpus: Sequence[str], user: str = "ada") -> None:
    """Let a run's part hold GPUs of the box for ten minutes already."""
    job = job_id(run_id, "0")
    fields: dict[Any, Any] = {
        "box": BOX,
        "slot": "gpu-0",
        "gpus": json.dumps(list(gpus)),
        "token": 900_000,
        "since": time.time() - 600,
        "user": user,
        "delivering": "0",
    }
    connection.hset(lease_key(job), mapping=fields)
    connection.zadd(LEASES_KEY, {job: time.time() + 3600})


def wait(connection: redis.Redis, run_id: str, cause: Cause, reason: str) -> None:
    """Say why a run's part waits."""
    found = Wait(job_id(run_id, "0"), cause, reason)
    connection.hset(WAITS_KEY, found.job, json.dumps({"cause": str(found.cause), "reason": found.reason}))


def reserve(connection: redis.Redis, run_id: str, gpus: Sequence[str]) -> None:
    """Keep GPUs of the box for a run."""
    now = time.time()
    kept = Reservation(job_id(run_id, "0"), BOX, tuple(gpus), now, now + 1800, now + 60)
    connection.set(RESERVATION_KEY, reservation_json(kept))


def clear(connection: redis.Redis, *run_ids: str) -> None:
    """Take the made-up fleet away again."""
    keys = [lease_key(job_id(run_id, "0")) for run_id in run_ids]
    connection.delete(KNOWN_BOXES_KEY, WAITS_KEY, RESERVATION_KEY, "lmms:box:dgx-01", "lmms:box:older-02", *keys)
    for run_id in run_ids:
        connection.zrem(LEASES_KEY, job_id(run_id, "0"))
