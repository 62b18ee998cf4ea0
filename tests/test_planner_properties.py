"""What every plan keeps to, whatever the fleet: told by fleets, jobs and leases drawn at random."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_lmms.planner.admission import admits
from mlflow_lmms.planner.fleet import (
    GIB,
    Box,
    BoxState,
    FleetState,
    Gpu,
    Job,
    Lease,
    Plan,
    Policy,
    Priority,
    Quota,
    Quotas,
    Start,
    Use,
)
from mlflow_lmms.planner.plan import plan

NOW = 1e6
USERS = ("ann", "ben", "eve")
ENVIRONMENTS = ("default", "old")
#: No deadline: a busy machine is slow, not wrong.
checked = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def boxes(draw: st.DrawFn, name: str) -> Box:
    size = draw(st.sampled_from([24, 80])) * GIB
    devices = tuple(
        Gpu(
            f"{name}{i}",
            draw(st.sampled_from(["L4", "H100"])),
            size,
            foreign=draw(st.sampled_from([0, 0, 0, 2 * GIB])),
            is_slice=draw(st.sampled_from([False, False, True])),
            usable=draw(st.sampled_from([True, True, True, False])),
        )
        for i in range(draw(st.integers(0, 8)))
    )
    return Box(
        name,
        devices,
        cpu_slots=draw(st.integers(0, 2)),
        gpu_slots=draw(st.sampled_from([None, None, 2])),
        environments=frozenset(draw(st.sets(st.sampled_from(ENVIRONMENTS)))),
        state=draw(st.sampled_from([BoxState.OPEN, BoxState.OPEN, *BoxState])),
        shares_gpus=draw(st.booleans()),
    )


@st.composite
def jobs(draw: st.DrawFn, run: str) -> Job:
    return Job(
        run,
        "0",
        draw(st.sampled_from(USERS)),
        draw(st.sampled_from([0, 1, 1, 1, 2, 4, 8])),
        NOW - draw(st.integers(0, 100_000)),
        memory=draw(st.sampled_from([None, 10 * GIB, 30 * GIB, 70 * GIB, 200 * GIB])),
        least_memory=draw(st.sampled_from([None, 8 * GIB, 50 * GIB])),
        whole_gpus=draw(st.booleans()),
        priority=draw(st.sampled_from(Priority)),
        estimated_s=draw(st.sampled_from([None, 60.0, 600.0, 1e5])),
        environment=draw(st.sampled_from([None, None, *ENVIRONMENTS])),
    )


@st.composite
def states(draw: st.DrawFn) -> FleetState:
    """A fleet as it can come about: what runs was started by earlier plans."""
    found = tuple(draw(boxes(name)) for name in "abc"[: draw(st.integers(0, 3))])
    waiting = tuple(draw(jobs(str(i))) for i in range(draw(st.integers(0, 14))))
    most = st.one_of(st.none(), st.integers(0, 9))
    quotas = Quotas(Quota(draw(most), draw(most)), {"eve": Quota(draw(most))})
    uses = {user: Use(draw(st.integers(0, 9)), draw(st.integers(0, 9))) for user in USERS}
    state = FleetState(found, waiting, quotas=quotas, uses=uses)
    earlier = tuple(draw(jobs(f"e{i}")) for i in range(draw(st.integers(0, 8))))
    before = plan(replace(state, jobs=earlier), NOW - 1000)
    state = replace(state, leases=leases_of(before.starts, earlier, NOW - 1000))
    return replace(state, reservation=plan(state, NOW - 500).reservation if draw(st.booleans()) else None)


def leases_of(starts: tuple[Start, ...], of: tuple[Job, ...], now: float) -> tuple[Lease, ...]:
    known = {job.id: job for job in of}
    return tuple(
        Lease(s.job, known[s.job].user, s.box, s.gpus, now, known[s.job].estimated_s, s.memory) for s in starts
    )


def assert_not_oversubscribed(state: FleetState, leases: tuple[Lease, ...]) -> None:
    """By a count of its own."""
    by_name = {box.name: box for box in state.boxes}
    held: dict[str, list[int | None]] = defaultdict(list)
    slots = Counter((lease.box, bool(lease.gpus)) for lease in leases)
    for lease in leases:
        for uuid in lease.gpus:
            held[uuid].append(lease.memory)
    for box in state.boxes:
        assert slots[box.name, False] <= box.cpu_slots
        assert box.gpu_slots is None or slots[box.name, True] <= box.gpu_slots
        for gpu in box.gpus:
            whole = [memory for memory in held[gpu.uuid] if memory is None]
            assert len(held[gpu.uuid]) <= 1 or (not whole and by_name[box.name].shares_gpus)
            assert sum(memory or 0 for memory in held[gpu.uuid]) + gpu.foreign <= gpu.memory or whole


def after(state: FleetState, made: Plan, now: float) -> FleetState:
    """The fleet once the plan's starts are leases."""
    begun = {start.job for start in made.starts}
    leases = (*state.leases, *leases_of(made.starts, state.jobs, now))
    return replace(
        state,
        jobs=tuple(job for job in state.jobs if job.id not in begun),
        leases=leases,
        reservation=made.reservation,
    )


@checked
@given(states())
def test_no_gpu_and_no_slot_is_given_twice(state: FleetState) -> None:
    assert_not_oversubscribed(state, after(state, plan(state, NOW), NOW).leases)


@checked
@given(states())
def test_a_job_gets_all_that_it_asks_for_where_it_suits_or_nothing(state: FleetState) -> None:
    known, by_name = {job.id: job for job in state.jobs}, {box.name: box for box in state.boxes}
    for start in plan(state, NOW).starts:
        job, box = known[start.job], by_name[start.box]
        given = [gpu for gpu in box.gpus if gpu.uuid in start.gpus]
        assert len(given) == len(start.gpus) == job.gpus
        assert box.state is BoxState.OPEN
        assert job.environment is None or job.environment in box.environments
        assert all(gpu.usable and gpu.memory >= (job.least_memory or 0) for gpu in given)
        assert job.gpus == 1 or not any(gpu.is_slice for gpu in given)
        assert start.memory is None or (box.shares_gpus and not job.whole_gpus)


@checked
@given(states())
def test_each_job_starts_or_waits_with_a_reason(state: FleetState) -> None:
    made = plan(state, NOW)
    running = {lease.job for lease in state.leases}
    told = [start.job for start in made.starts] + [wait.job for wait in made.waits]
    assert sorted(told) == sorted(job.id for job in state.jobs if job.id not in running)
    assert all(wait.reason for wait in made.waits)
    if made.reservation:
        assert made.reservation.job in {wait.job for wait in made.waits}


@checked
@given(states())
def test_quotas_are_kept(state: FleetState) -> None:
    made, known = plan(state, NOW), {job.id: job for job in state.jobs}
    begun: Counter[str] = Counter()
    for start in made.starts:
        begun[known[start.job].user] += len(start.gpus)
    for user, count in begun.items():
        quota = state.quotas.of(user)
        held = sum(len(lease.gpus) for lease in state.leases if lease.user == user)
        assert not count or quota.gpus is None or held + count <= quota.gpus
        assert not count or quota.gpu_hours is None or state.uses[user].gpu_hours < quota.gpu_hours


@checked
@given(states(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(state: FleetState, random: Random) -> None:
    jobs_, leases = list(state.jobs), list(state.leases)
    random.shuffle(jobs_)
    random.shuffle(leases)
    assert plan(replace(state, jobs=tuple(jobs_), leases=tuple(leases)), NOW) == plan(state, NOW)


@checked
@given(states())
def test_a_second_plan_starts_nothing_more_and_keeps_the_reservation(state: FleetState) -> None:
    made = plan(state, NOW)
    again = plan(after(state, made, NOW), NOW)
    assert not again.starts
    assert again.reservation == made.reservation


@checked
@given(states(), states())
def test_a_plan_made_from_an_old_state_does_no_harm(old: FleetState, new: FleetState) -> None:
    """Boxes have closed and changed, GPUs are taken, jobs are gone: what is admitted is sound all the same."""
    state = new
    for start in plan(old, NOW).starts:
        if admits(state, start, NOW):
            state = after(state, Plan((start,), None, ()), NOW)
    assert_not_oversubscribed(new, state.leases)
    closed = {box.name for box in new.boxes if box.state is not BoxState.OPEN}
    assert not any(lease.box in closed for lease in state.leases[len(new.leases) :])
    assert len({lease.job for lease in state.leases}) == len(state.leases)


@checked
@given(states())
def test_every_start_of_a_fresh_plan_is_admitted(state: FleetState) -> None:
    for start in plan(state, NOW).starts:
        assert admits(state, start, NOW)
        state = after(state, Plan((start,), None, ()), NOW)


@checked
@given(states())
def test_a_reservation_of_another_fleet_does_no_harm(state: FleetState) -> None:
    foreign = replace(state, boxes=tuple(replace(box, name=f"new-{box.name}") for box in state.boxes), leases=())
    assert_not_oversubscribed(foreign, after(foreign, plan(foreign, NOW), NOW).leases)


runs = st.lists(st.tuples(st.floats(60, 1500), st.floats(0.3, 3.0)), min_size=10, max_size=40)


@settings(max_examples=30, deadline=None)
@given(runs, st.sampled_from([2, 4, 8]))
def test_no_job_starves(stream: list[tuple[float, float]], size: int) -> None:
    """One box, ever more small jobs (seconds, wrongly estimated by a factor), one large job.

    From when GPUs are kept for it, it waits at most the drain and the longest run, whatever comes and whatever the
    estimates say; and before that at most as long for the one job that has the reservation when it comes.
    """
    policy = Policy(drain_s=600)
    large = Job("large", "0", "ann", size, 1000.0, estimated_s=60)
    waited, kept = _wait_among_small_jobs(large, stream, policy)
    most = policy.drain_s + max(seconds for seconds, _ in stream) + 1
    assert kept <= most
    assert waited <= 2 * most


def _wait_among_small_jobs(large: Job, stream: list[tuple[float, float]], policy: Policy) -> tuple[float, float]:
    """Seconds since it was queued, and since GPUs are kept for it."""
    now, number, ends = 0.0, 0, dict[str, float]()
    state = FleetState((Box("a", tuple(Gpu(f"g{i}", "H100", 80 * GIB) for i in range(8))),), ())
    while True:
        while len(state.jobs) < 12:
            seconds, factor = stream[number % len(stream)]
            small = Job(f"s{number}", "0", "ann", 1, now, estimated_s=seconds * factor)
            state, number = replace(state, jobs=(*state.jobs, small)), number + 1
        if now >= large.queued_at and large not in state.jobs:
            state = replace(state, jobs=(*state.jobs, large))
        state = replace(state, leases=tuple(lease for lease in state.leases if ends[lease.job] > now))
        made = plan(state, now, policy)
        for start in made.starts:
            if start.job == large.id:
                kept = state.reservation
                return now - large.queued_at, now - kept.since if kept and kept.job == large.id else 0.0
            ends[start.job] = now + stream[int(start.job[1:].partition("-")[0]) % len(stream)][0]
        state = after(state, made, now)
        coming = [ends[lease.job] for lease in state.leases] + [large.queued_at] * (now < large.queued_at)
        now = min(coming)
