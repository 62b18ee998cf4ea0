"""The claim in the queue server and the planner's last check are the same rule: compared on random fleets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from fleet_strategies import Written, boxes, dated, fleets, jobs
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from mlflow_lmms.planner.admission import admits
from mlflow_lmms.planner.demand import demand_of, suits
from mlflow_lmms.planner.fleet import GIB, MIB, Box, BoxState, FleetState, Job, Lease, Start
from mlflow_lmms.planner.plan import DEFAULT, job_seconds, plan, rooms_of
from mlflow_lmms.queue_keys import PLAN_AT_KEY, PLAN_STARTS_KEY, job_from_need, need_fields, start_json
from worker.leases import Claim, LeaseBook, Slot

unhealthy = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow]
many = settings(max_examples=200, deadline=None, suppress_health_check=unhealthy)


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey) as connection:
        yield connection


def publish(connection: redis.Redis, book: LeaseBook, *starts: Start) -> None:
    connection.delete(PLAN_STARTS_KEY)
    for start in starts:
        connection.hset(PLAN_STARTS_KEY, start.job, start_json(start))
    connection.set(PLAN_AT_KEY, book.now())


def claim_on(book: LeaseBook, box: str, job: Job) -> Claim | None:
    return book.claim(Slot(box, f"{box}.x", with_gpus=job.gpus > 0))


def changed_gpu(state: FleetState, box: str, uuid: str, changes: dict[str, Any]) -> FleetState:
    """The fleet with one GPU changed."""
    gpus = next(one for one in state.boxes if one.name == box).gpus
    new = tuple(replace(gpu, **changes) if gpu.uuid == uuid else gpu for gpu in gpus)
    return changed_box(state, box, {"gpus": new})


def changed_box(state: FleetState, name: str, changes: dict[str, Any]) -> FleetState:
    return replace(state, boxes=tuple(replace(box, **changes) if box.name == name else box for box in state.boxes))


def changed_job(state: FleetState, name: str, changes: dict[str, Any]) -> FleetState:
    return replace(state, jobs=tuple(replace(job, **changes) if job.id == name else job for job in state.jobs))


BOX_CHANGES: tuple[dict[str, Any], ...] = (
    *({"state": state} for state in BoxState),
    {"shares_gpus": False},
    {"shares_gpus": True},
    *({"gpu_slots": slots} for slots in range(3)),
    *({"cpu_slots": slots} for slots in range(2)),
    {"labels": frozenset()},
    {"environments": frozenset()},
    {"ends_at": 1.0},
)
GPU_CHANGES: tuple[dict[str, Any], ...] = (
    {"usable": False},
    {"is_slice": True},
    {"foreign": 501 * MIB},
    {"foreign": 60 * GIB},
    {"free": GIB},
    {"type": "Tesla T4"},
    {"memory": 16 * GIB},
    {"uuid": "another"},
)
JOB_CHANGES: tuple[dict[str, Any], ...] = (
    {"box": "two"},
    {"boxes": frozenset()},
    {"boxes": frozenset({"one"})},
    {"environment": "lab"},
    {"labels": frozenset({"lab"})},
    {"gpu_type": "T4"},
    {"least_memory": 41 * GIB},
    {"gpus": 2},
)


def gpu_variants(state: FleetState, start: Start) -> Iterator[tuple[FleetState, Start]]:
    """What may have become of the first GPU of a start."""
    yield state, start
    for changes in GPU_CHANGES:
        yield changed_gpu(state, start.box, start.gpus[0], changes), start
    for holder, memory in (("x-p0", None), ("x-p0", GIB), ("x-p0", 79 * GIB), (start.job, GIB)):
        lease = Lease(holder, "bob", start.box, start.gpus[:1], 0.0, None, memory)
        yield replace(state, leases=(*state.leases, lease)), start
        yield replace(state, leases=(*state.leases, replace(lease, box="elsewhere"))), start


def variants(state: FleetState, start: Start) -> Iterator[tuple[FleetState, Start]]:
    """What a fleet, and a start that was planned for it, may have become meanwhile: one thing changed at a time."""
    yield state, start
    yield replace(state, jobs=()), start
    for changes in BOX_CHANGES:
        yield changed_box(state, start.box, changes), start
    for changes in JOB_CHANGES:
        yield changed_job(state, start.job, changes), start
    if not start.gpus:
        others = tuple(Lease(f"x{number}-p0", "bob", start.box, (), 0.0) for number in range(2))
        yield replace(state, leases=(*state.leases, *others)), start
    for gpu in start.gpus[:1]:
        yield from gpu_variants(state, start)
        shared = changed_job(changed_box(state, start.box, {"shares_gpus": True}), start.job, {"gpus": 1})
        yield from gpu_variants(shared, replace(start, gpus=(gpu,), memory=2 * GIB))
        yield state, replace(start, gpus=start.gpus[1:])
        yield state, replace(start, gpus=(*start.gpus, gpu))
        yield state, replace(start, gpus=(*start.gpus[1:], "gone"))
    for memory in (None, 2 * GIB):
        yield state, replace(start, memory=memory)


@settings(many, max_examples=20)
@given(data=st.data(), state=fleets(), quarantine=st.booleans())
def test_the_claim_admits_a_planned_start_just_when_the_planner_does(
    connection: redis.Redis, data: st.DataObject, state: FleetState, quarantine: bool
) -> None:
    book = LeaseBook(connection, 15)
    now = book.now()
    state = dated(state, now)
    made = plan(state, now)
    assume(made.starts)
    job = {job.id: job for job in state.jobs}
    by_size = sorted(made.starts, key=lambda start: len(start.gpus))
    planned = data.draw(st.sampled_from([by_size[0], by_size[-1]]))
    for fleet, start in variants(state, planned):
        Written(connection).fleet(fleet, quarantine)
        publish(connection, book, start)
        claim = book.claim(Slot(start.box, "x", with_gpus=bool(start.gpus)))
        assert (claim is not None) is admits(fleet, start, now), (fleet, start)
        if claim is not None:
            assert (claim.job_id, claim.gpus, claim.memory) == (start.job, start.gpus, start.memory)
            assert (claim.user, claim.estimated_s) == (job[start.job].user, job[start.job].estimated_s)
            assert connection.hlen(PLAN_STARTS_KEY) == 0, "the start is used up"
            assert book.claim(Slot(start.box, "x", with_gpus=bool(start.gpus))) is None


@many
@given(state=fleets(), quarantine=st.booleans())
def test_every_start_of_a_plan_is_claimed(connection: redis.Redis, state: FleetState, quarantine: bool) -> None:
    book = LeaseBook(connection, 15)
    state = dated(state, book.now())
    Written(connection).fleet(state, quarantine)
    made = plan(state, book.now())
    publish(connection, book, *made.starts)
    by_id = {job.id: job for job in state.jobs}
    claimed = [claim_on(book, start.box, by_id[start.job]) for start in made.starts]
    assert {claim.job_id for claim in claimed if claim} == {start.job for start in made.starts}


@many
@given(box=boxes("one"), job=jobs("run0"), quarantine=st.booleans())
def test_without_a_plan_a_job_starts_where_and_only_where_it_may(
    connection: redis.Redis, box: Box, job: Job, quarantine: bool
) -> None:
    book = LeaseBook(connection, 15)
    now = book.now()
    state = dated(FleetState((box,), (job,)), now)
    demand = demand_of(job, state.boxes)
    assume(demand.memory == (job.memory or 0))  # else its estimate is larger than the box, which the planner judges
    Written(connection).fleet(state, quarantine)
    claim = claim_on(book, "one", job)
    room = rooms_of(state, now)["one"]
    possible = (
        suits(job, box) and room.choose(demand) is not None and room.lasts_until(now + job_seconds(job, DEFAULT))
    )
    assert (claim is not None) is (possible and box.state is BoxState.OPEN)
    event(f"claimed: {claim is not None}")
    if claim is not None:
        assert admits(state, Start(job.id, "one", claim.gpus, claim.memory), now)


@given(job=jobs("run0"))
def test_what_a_job_needs_comes_back_as_it_was(job: Job) -> None:
    fields = need_fields(job)
    assert all(isinstance(value, str) for value in fields.values())
    assert job_from_need(json.loads(json.dumps(fields))) == job
