"""Traces of the simulation through the real claims: what is planned in simulated time, boxes claim from Redis.

The simulation counts by itself that no GPU is given twice; here every start must also be granted by the script, on
the planned GPUs, and the queue server must agree at each moment on who holds what.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from fleet_boxes import announce, open_claims

from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.planner.fleet import BoxState, FleetState, Plan, Quotas
from mlflow_lmms.planner.plan import plan
from mlflow_lmms.queue_keys import GpuReport
from worker.leases import Claim, LeaseBook, Slot


@pytest.fixture(scope="module")
def schedule() -> ModuleType:
    """``benchmarks/schedule.py`` as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / "schedule.py"
    spec = importlib.util.spec_from_file_location("schedule_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class RealClaims:
    """A scheduler for the simulation: it plans in simulated time and lets the boxes claim from a real server."""

    def __init__(self, url: str, boxes: Any) -> None:
        self._queue, self._view, self._orders = EvaluationQueue(url), FleetView(url), FleetOrders(url)
        self._book = LeaseBook(redis.Redis.from_url(url), 3600.0)
        self._claims: dict[str, Claim] = {}
        self.starts = 0
        with redis.Redis.from_url(url, decode_responses=True) as connection:
            open_claims(connection)
            for box in boxes:
                gpus = [GpuReport(gpu.uuid, gpu.type, gpu.memory) for gpu in box.gpus]
                announce(connection, box.name, gpus, shares_gpus=True, gpu_slots=64)

    def __call__(self, state: FleetState, now: float) -> Plan:
        self._follow(state)
        read = self._view.state(Quotas(), {})
        assert {job.id: job for job in read.jobs} == {job.id: job for job in state.jobs}
        assert {lease.job: (lease.box, lease.gpus, lease.memory) for lease in read.leases} == {
            lease.job: (lease.box, lease.gpus, lease.memory) for lease in state.leases
        }
        made = plan(replace(state, boxes=read.boxes), now)
        self._orders.publish(made, self._view.now())
        got = {}
        for box in read.boxes:
            assert box.state is BoxState.OPEN
            while claim := self._book.claim(Slot(box.name, "s", True)):
                got[claim.job_id] = (claim.box, claim.gpus, claim.memory)
                self._claims[claim.job_id] = claim
        assert got == {start.job: (start.box, start.gpus, start.memory) for start in made.starts}
        self.starts += len(got)
        return made

    def _follow(self, state: FleetState) -> None:
        """Let Redis know which jobs have ended and which have come since the last plan."""
        held = {lease.job for lease in state.leases}
        for job in [job for job in self._claims if job not in held]:
            claim = self._claims.pop(job)
            self._book.finish(claim)
            self._book.release(claim.job_id, claim.token)
        for one in state.jobs:
            self._queue.enqueue(one)


@pytest.mark.parametrize(("seed", "load"), [(1, 0.95), (2, None)], ids=["a stream", "all at once"])
def test_every_planned_start_is_granted(
    schedule: ModuleType, empty_valkey: str, seed: int, load: float | None
) -> None:
    boxes = schedule.fleet(2)
    arrivals = schedule.stream(seed, load, jobs=80, gpus=16)
    claims = RealClaims(empty_valkey, boxes)
    world = schedule.World(boxes, arrivals, claims, None, seed)
    ended = world.run()
    assert claims.starts == len(arrivals) == len(world.waits)
    assert ended < 2 * schedule.lower_bound(arrivals, 16)
