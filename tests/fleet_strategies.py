"""Random fleets for property tests: boxes, jobs, leases, and a way to write them into a real queue server."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import redis
from fleet_boxes import announce, open_claims
from hypothesis import strategies as st

from mlflow_lmms.planner.fleet import GIB, MIB, Box, BoxState, FleetState, Gpu, Job, Lease
from mlflow_lmms.queue_keys import (
    BOX_STATE_KEY,
    LEASES_KEY,
    GpuReport,
    lease_key,
    need_fields,
    need_key,
    quarantine_key,
)

NAMES = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "Tesla T4")
WORDS = ("frankfurt", "fast-disk", "lab")
sizes = st.sampled_from([0, 4, 16, 40, 80]).map(lambda gib: gib * GIB)
rarely = st.sampled_from([False, False, False, False, True])
some_words = st.frozensets(st.sampled_from(WORDS), max_size=2)


@st.composite
def gpus(draw: st.DrawFn, uuid: str) -> Gpu:
    memory = draw(sizes)
    free = min(draw(st.integers(0, 80)) * GIB, memory) if draw(rarely) else None
    foreign = draw(st.sampled_from([500 * MIB, 500 * MIB + 1, 20 * GIB])) if draw(rarely) else 0
    return Gpu(uuid, draw(st.sampled_from(NAMES)), memory, free, foreign, draw(rarely), not draw(rarely))


@st.composite
def boxes(draw: st.DrawFn, name: str) -> Box:
    return Box(
        name=name,
        gpus=tuple(draw(gpus(f"{name}-g{number}")) for number in range(draw(st.sampled_from([4, 3, 2, 1, 0])))),
        cpu_slots=draw(st.sampled_from([2, 1, 0])),
        gpu_slots=draw(st.sampled_from([5, 5, 5, 2, 1, 0])),
        labels=draw(some_words),
        environments=draw(some_words),
        state=draw(st.sampled_from(BoxState)) if draw(rarely) else BoxState.OPEN,
        shares_gpus=draw(st.booleans()),
        ends_at=draw(st.sampled_from([-50.0, 400.0, 2000.0, 1e6])) if draw(rarely) else None,
    )


@st.composite
def jobs(draw: st.DrawFn, run: str) -> Job:
    selects = draw(rarely)
    return Job(
        run=run,
        part="p0",
        user=draw(st.sampled_from(["alice", "bob"])),
        gpus=draw(st.sampled_from([2, 1, 1, 2, 0, 3])),
        queued_at=0.0,
        memory=draw(st.none() | sizes),
        least_memory=draw(sizes) if draw(rarely) else None,
        whole_gpus=draw(st.booleans()),
        gpu_type=draw(st.sampled_from(["A100", "H100 80GB", "t4", "SXM4-80GB"])) if draw(rarely) else None,
        labels=draw(some_words) if selects else frozenset(),
        box=draw(st.sampled_from([None, "one", "two"])) if selects else None,
        environment=draw(st.none() | st.sampled_from(WORDS)) if selects else None,
        boxes=draw(st.none() | st.frozensets(st.sampled_from(["one", "two"]))) if selects else None,
        estimated_s=draw(st.sampled_from([None, 1.5, 700.25, 30000.0])),
    )


@st.composite
def leases(draw: st.DrawFn, job: str, box: Box) -> Lease:
    uuids = [gpu.uuid for gpu in box.gpus] + ["gone"]
    chosen = tuple(draw(st.lists(st.sampled_from(uuids), max_size=2, unique=True)))
    memory = draw(sizes) if len(chosen) == 1 and draw(st.booleans()) else None
    return Lease(job, "alice", box.name, chosen, 0.0, None, memory)


@st.composite
def fleets(draw: st.DrawFn) -> FleetState:
    made = (draw(boxes("one")), draw(boxes("two")))
    waiting = tuple(draw(jobs(f"run{number}")) for number in range(draw(st.integers(1, 3))))
    held = tuple(
        draw(leases(f"held{number}-p0" if draw(st.integers(0, 5)) else waiting[0].id, draw(st.sampled_from(made))))
        for number in range(draw(st.integers(0, 3)))
    )
    return FleetState(made, waiting, tuple({lease.job: lease for lease in held}.values()))


def dated(state: FleetState, now: float) -> FleetState:
    """The fleet with the ends of its boxes counted from now on."""
    ends = (None if box.ends_at is None else now + box.ends_at for box in state.boxes)
    return replace(state, boxes=tuple(replace(box, ends_at=end) for box, end in zip(state.boxes, ends, strict=True)))


@dataclass(frozen=True)
class Written:
    """How to write a fleet: in which ways the queue server tells the same."""

    connection: redis.Redis

    def fleet(self, state: FleetState, quarantine: bool) -> None:
        """Start anew, with just this fleet; a GPU that is not usable may be so because of a quarantine."""
        self.connection.flushall()
        open_claims(self.connection)
        for box in state.boxes:
            self.box(box, quarantine)
        for job in state.jobs:
            self.job(job)
        for token, lease in enumerate(state.leases, 1):
            self.lease(lease, token)
        self.connection.set("lmms:fence", len(state.leases))

    def box(self, box: Box, quarantine: bool) -> None:
        if box.state is BoxState.OFFLINE:
            return
        if box.state is not BoxState.OPEN:
            self.connection.hset(BOX_STATE_KEY, box.name, box.state)
        reports = [
            GpuReport(gpu.uuid, gpu.type, gpu.memory, gpu.free, gpu.foreign, gpu.is_slice, gpu.usable or quarantine)
            for gpu in box.gpus
        ]
        for gpu in box.gpus:
            if quarantine and not gpu.usable:
                self.connection.set(quarantine_key(gpu.uuid), 1)
        same: dict[str, Any] = {
            name: getattr(box, name)
            for name in ("cpu_slots", "gpu_slots", "labels", "environments", "shares_gpus")
        }  # fmt: skip
        announce(self.connection, box.name, reports, until=box.ends_at, **same)

    def job(self, job: Job) -> None:
        fields: dict[Any, Any] = need_fields(job)
        self.connection.hset(need_key(job.id), mapping=fields)
        self.connection.hset(f"rq:job:{job.id}", "status", "queued")
        self.connection.rpush("rq:queue:lmms-normal", job.id)

    def lease(self, lease: Lease, token: int) -> None:
        fields: dict[Any, Any] = {
            "box": lease.box,
            "slot": "s",
            "gpus": json.dumps(lease.gpus),
            "token": token,
            "queue": "rq:queue:lmms-normal",
            "memory": "" if lease.memory is None else lease.memory,
        }
        self.connection.hset(lease_key(lease.job), mapping=fields)
        self.connection.zadd(LEASES_KEY, {lease.job: 9e9})
