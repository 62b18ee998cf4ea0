"""The planner by examples: what starts, where, whose turn it is, what waits and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlflow_lmms.planner.admission import admits
from mlflow_lmms.planner.fair_share import HOUR_S, Worked, decayed_use
from mlflow_lmms.planner.fleet import (
    GIB,
    Box,
    BoxState,
    Cause,
    FleetState,
    Gpu,
    Job,
    Lease,
    Plan,
    Priority,
    Quota,
    Quotas,
    Reservation,
    Start,
    Use,
)
from mlflow_lmms.planner.plan import plan

NOW = 1_000_000.0
MINUTE = 60.0


def gpus(count: int, memory: int = 80 * GIB, kind: str = "NVIDIA H100 80GB HBM3") -> tuple[Gpu, ...]:
    return tuple(Gpu(f"GPU-{i}", kind, memory) for i in range(count))


def a_box(name: str = "a", count: int = 8, **more: Any) -> Box:
    return Box(name, tuple(replace(gpu, uuid=f"{name}{i}") for i, gpu in enumerate(gpus(count))), **more)


def job(run: str, count: int = 1, *, user: str = "ann", waited: float = 0.0, **more: Any) -> Job:
    return Job(run, "0", user, count, NOW - waited, **more)


def lease(run: str, box: str, devices: Sequence[str], *, ran: float = 0.0, user: str = "ann", **more: Any) -> Lease:
    return Lease(f"{run}-0", user, box, tuple(devices), NOW - ran, **more)


def planned(boxes: Sequence[Box], jobs: Sequence[Job], leases: Sequence[Lease] = (), **more: Any) -> Plan:
    return plan(FleetState(tuple(boxes), tuple(jobs), tuple(leases), **more), NOW)


def started(made: Plan) -> dict[str, Start]:
    return {start.job.removesuffix("-0"): start for start in made.starts}


def why(made: Plan, run: str) -> tuple[Cause, str]:
    wait = next(wait for wait in made.waits if wait.job == f"{run}-0")
    return wait.cause, wait.reason


def test_a_job_gets_all_its_gpus_on_one_box_or_none() -> None:
    made = planned([a_box("a", 2), a_box("b", 2)], [job("x", 3)])
    assert not made.starts
    cause, reason = why(made, "x")
    assert cause is Cause.NEVER_FITS
    assert reason == "it needs 3 GPUs on one box, and the most that a box has is 2 (b)"


def test_small_jobs_fill_the_fullest_box_so_that_a_whole_one_stays_free() -> None:
    made = planned([a_box("a"), a_box("b")], [job("x"), job("y", 8)], [lease("l", "b", ["b0"])])
    assert started(made)["x"].box == "b"
    assert started(made)["y"].box == "a"


def test_gpus_are_shared_by_memory_only_where_the_owner_allows_it() -> None:
    jobs = [job("x", memory=30 * GIB), job("y", memory=40 * GIB), job("z", memory=30 * GIB)]
    shared = planned([a_box(count=1, shares_gpus=True)], jobs)
    assert {run: start.memory for run, start in started(shared).items()} == {"x": 30 * GIB, "y": 40 * GIB}
    alone = planned([a_box(count=1)], jobs)
    assert {run: start.memory for run, start in started(alone).items()} == {"x": None}


@pytest.mark.parametrize("more", [{"memory": None}, {"memory": GIB, "whole_gpus": True}])
def test_a_job_of_unknown_memory_or_a_filling_backend_shares_nothing(more: dict[str, Any]) -> None:
    made = planned([a_box(count=1, shares_gpus=True)], [job("x", **more), job("y", memory=GIB)])
    assert list(started(made)) == ["x"]


def test_memory_that_the_driver_does_not_have_free_is_not_given() -> None:
    gpu = replace(gpus(1)[0], free=20 * GIB)
    made = planned([Box("a", (gpu,), shares_gpus=True)], [job("x", memory=30 * GIB)])
    assert not made.starts


def test_a_gpu_that_others_use_is_not_given_whole_and_the_reason_says_so() -> None:
    used = Box("a", (replace(gpus(1)[0], foreign=2 * GIB),))
    made = planned([used], [job("x")])
    assert why(made, "x") == (
        Cause.FOREIGN_USE,
        "idle GPUs (1 of a) hold more than 500 MiB of processes outside the queue",
    )
    assert started(planned([Box("a", (replace(gpus(1)[0], foreign=100 << 20),))], [job("x")]))


def test_slices_are_for_jobs_with_one_gpu() -> None:
    sliced = Box("a", tuple(replace(gpu, is_slice=True) for gpu in gpus(2, 20 * GIB)))
    made = planned([sliced], [job("x", 2), job("y")])
    assert list(started(made)) == ["y"]
    assert why(made, "x")[0] is Cause.NEVER_FITS


def test_gpus_of_one_type_are_preferred_for_one_job() -> None:
    mixed = Box("a", (*gpus(1, 24 * GIB, "L4"), *(replace(g, uuid=f"h{g.uuid}") for g in gpus(2))))
    assert started(planned([mixed], [job("x", 2)]))["x"].gpus == ("hGPU-0", "hGPU-1")


def test_an_estimate_beyond_every_gpu_is_tried_on_the_largest() -> None:
    small = Box("a", tuple(replace(g, uuid=f"s{g.uuid}") for g in gpus(1, 24 * GIB)))
    large = Box("b", gpus(1), shares_gpus=True)
    start = started(planned([small, large], [job("x", memory=200 * GIB, least_memory=10 * GIB)]))["x"]
    assert (start.box, start.memory) == ("b", None)


def test_what_is_beyond_doubt_too_large_never_fits() -> None:
    cause, reason = why(planned([a_box()], [job("x", memory=200 * GIB, least_memory=117 * GIB)]), "x")
    assert cause is Cause.NEVER_FITS
    assert reason == (
        "its weights alone need 117.0 GiB on its GPU, and the best that a box has is 80.0 GiB (a): "
        "ask for more GPUs, a smaller number format, or a box with larger GPUs"
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"box": "z"}, "no box is called z: there are a"),
        ({"labels": frozenset({"nvlink", "eu"})}, "no box has the labels eu, nvlink"),
        ({"gpu_type": "A100"}, "it needs 1 A100 GPU on one box, and no box has one"),
        (
            {"environment": "old"},
            "no box offers the environment old (offered: default): start one with "
            "`mlflow-lmms worker --environment old=PYTHON`",
        ),
    ],
)
def test_what_no_box_offers_is_named(more: dict[str, Any], expected: str) -> None:
    made = planned([a_box(environments=frozenset({"default"}))], [job("x", **more)])
    assert why(made, "x") == (Cause.NEVER_FITS, expected)
    assert made.waits[0].never


def test_selectors_that_no_one_box_meets_together_are_listed() -> None:
    boxes = [a_box("a", 8), a_box("b", 1, labels=frozenset({"eu"}))]
    cause, reason = why(planned(boxes, [job("x", 4, labels=frozenset({"eu"}))]), "x")
    assert (cause, reason) == (Cause.NEVER_FITS, "no one box has all that it needs: labels eu, 4 GPUs")


def test_selectors_choose_the_box() -> None:
    boxes = [a_box("a"), a_box("b", labels=frozenset({"eu"}), environments=frozenset({"new"}))]
    made = planned(boxes, [job("x", labels=frozenset({"eu"}), environment="new", gpu_type="h100")])
    assert started(made)["x"].box == "b"


def test_without_boxes_nothing_is_called_impossible() -> None:
    made = planned([], [job("x")])
    assert (why(made, "x")[0], made.waits[0].never) == (Cause.NO_BOX, False)
    assert "mlflow-lmms worker" in why(made, "x")[1]


@pytest.mark.parametrize("state", [BoxState.PAUSED, BoxState.DRAINED, BoxState.OFFLINE])
def test_a_box_that_is_not_open_takes_nothing_and_is_named(state: BoxState) -> None:
    made = planned([a_box(state=state)], [job("x")])
    assert (made.starts, made.reservation) == ((), None)
    cause, reason = why(made, "x")
    assert cause is Cause.BOXES_CLOSED and reason.startswith("no box that suits it takes work: a is")


def test_work_without_gpu_takes_slots_of_the_emptiest_box() -> None:
    boxes = [a_box("a", 1, cpu_slots=1), a_box("b", 0, cpu_slots=2)]
    made = planned(boxes, [job(str(n), 0) for n in range(4)])
    assert sorted(start.box for start in made.starts) == ["a", "b", "b"]
    assert made.reservation is None
    assert made.waits[0].reason == "every slot for work without a GPU is taken"


def test_a_box_runs_no_more_jobs_than_it_has_slots() -> None:
    made = planned([a_box(gpu_slots=2)], [job(str(n)) for n in range(4)])
    assert len(made.starts) == 2


def full_box(ends_in: Sequence[float]) -> list[Lease]:
    return [lease(f"l{i}", "a", [f"a{i}"], estimated_s=end) for i, end in enumerate(ends_in)]


def test_the_job_that_finds_no_place_gets_the_gpus_that_are_free_first() -> None:
    leases = full_box([600, 60, 500, 120])
    made = planned([a_box(count=4)], [job("x", 2, waited=10)], leases)
    assert made.reservation == Reservation("x-0", "a", ("a1", "a3"), NOW, NOW + 20 * MINUTE, NOW + 120)
    assert why(made, "x") == (
        Cause.NEXT,
        "is next: 2 GPUs of a kept for it, likely free in 2 min; short jobs may use them until then",
    )


def test_others_fill_kept_gpus_while_they_are_done_in_time_until_the_drain() -> None:
    leases = full_box([600])
    jobs = [job("big", 2, waited=100), job("short", estimated_s=500), job("long", estimated_s=700)]
    boxes = [a_box(count=2)]
    made = planned(boxes, jobs, leases)
    assert list(started(made)) == ["short"]
    assert why(made, "long") == (Cause.RESERVED_FOR_OTHER, "GPUs of a are kept for big-0, whose turn it is")
    kept = made.reservation
    assert kept is not None
    drained = planned(boxes, jobs, leases, reservation=replace(kept, drain_at=NOW))
    assert not drained.starts
    assert why(drained, "short")[0] is Cause.RESERVED_FOR_OTHER


def test_the_reservation_stays_with_its_job_when_a_more_urgent_one_comes() -> None:
    leases, boxes, big = full_box([600, 600]), [a_box(count=2)], job("big", 2)
    kept = planned(boxes, [big], leases).reservation
    urgent = job("urgent", 2, priority=Priority.HIGH, waited=9e4)
    assert planned(boxes, [big, urgent], leases, reservation=kept).reservation == kept
    assert list(started(planned(boxes, [big, urgent], reservation=kept))) == ["big"]


def test_a_reservation_on_a_box_that_closes_moves_and_keeps_its_age() -> None:
    kept = Reservation("big-0", "a", ("a0", "a1"), NOW - 600, NOW + 600, NOW)
    boxes = [a_box("a", 2, state=BoxState.DRAINED), a_box("b", 2)]
    made = planned(boxes, [job("big", 2)], [lease("l", "b", ["b0"], estimated_s=60)], reservation=kept)
    assert made.reservation is not None
    assert (made.reservation.box, made.reservation.since, made.reservation.drain_at) == ("b", NOW - 600, NOW + 600)


def test_gpus_are_kept_for_large_jobs_rather_than_small_ones_of_the_same_age() -> None:
    made = planned([a_box()], [job("s", waited=60), job("big", 8)], full_box([600] * 8))
    assert made.reservation is not None and made.reservation.job == "big-0"


def test_priority_comes_first_and_waiting_makes_up_for_it() -> None:
    boxes = [a_box(count=1)]
    fresh = [job("low", priority=Priority.LOW, waited=7 * HOUR_S), job("high", priority=Priority.HIGH)]
    assert list(started(planned(boxes, fresh))) == ["high"]
    aged = [job("low", priority=Priority.LOW, waited=9 * HOUR_S), job("high", priority=Priority.HIGH)]
    assert list(started(planned(boxes, aged))) == ["low"]


def test_who_had_less_lately_comes_first() -> None:
    jobs = [job("x", user="ann", waited=600), job("y", user="ben")]
    boxes = [a_box(count=1)]
    assert list(started(planned(boxes, jobs))) == ["x"]
    assert list(started(planned(boxes, jobs, uses={"ann": Use(recent=5)}))) == ["y"]


def test_users_take_turns_within_one_plan() -> None:
    jobs = [job(f"a{i}", user="ann", waited=600 - i) for i in range(20)]
    jobs += [job(f"b{i}", user="ben", waited=300 - i) for i in range(20)]
    made = planned([a_box()], jobs)
    assert sum(start.job.startswith("b") for start in made.starts) == 4


def test_use_is_forgotten_by_half_for_every_half_life() -> None:
    worked = [Worked("ann", 2, 0, HOUR_S), Worked("ann", 1, 0, HOUR_S), Worked("ben", 4, 24 * HOUR_S, 25 * HOUR_S)]
    assert decayed_use(worked, 25 * HOUR_S) == pytest.approx({"ann": 1.5, "ben": 4.0})


def test_a_user_has_no_more_gpus_than_the_quota_and_others_go_on() -> None:
    quotas = Quotas(Quota(), {"ann": Quota(gpus=3)})
    jobs = [job("x", 2), job("y", 2), job("z"), job("b", 2, user="ben")]
    made = planned([a_box()], jobs, [lease("l", "a", ["a0"])], quotas=quotas)
    assert sorted(started(made)) == ["b", "x"]
    assert why(made, "y") == (Cause.QUOTA, "needs 2 GPUs; ann has 3 of 3 at a time")


def test_a_job_over_its_quota_for_good_says_so() -> None:
    made = planned([a_box()], [job("x", 4)], quotas=Quotas(Quota(gpus=2)))
    assert why(made, "x") == (Cause.QUOTA, "asks for 4 GPUs; ann may have 2 at a time")


def test_small_jobs_of_a_user_do_not_starve_the_users_own_large_one() -> None:
    quotas, running = Quotas(Quota(gpus=4)), [lease("l", "a", ["a0"])]
    fresh = planned([a_box()], [job("big", 4, waited=60), job("s")], running, quotas=quotas)
    assert list(started(fresh)) == ["s"]
    old = planned([a_box()], [job("big", 4, waited=3600), job("s")], running, quotas=quotas)
    assert not old.starts
    assert why(old, "s")[1] == "waits behind big-0 of the same user, which has waited long for its quota"


def test_gpu_hours_are_counted_with_what_runs_and_the_last_may_be_overdrawn_once() -> None:
    quotas = Quotas(Quota(gpu_hours=10))
    jobs = [job(str(n), 2, estimated_s=2 * HOUR_S) for n in range(4)]
    made = planned([a_box()], jobs, quotas=quotas, uses={"ann": Use(gpu_hours=1)})
    assert len(made.starts) == 2
    assert made.waits[0].reason == "ann has used or is using 9.0 of 10 GPU-hours"
    long = [job("long", 8, estimated_s=50 * HOUR_S)]
    assert started(planned([a_box()], long, quotas=quotas, uses={"ann": Use(gpu_hours=9)}))
    spent = planned([a_box()], long, quotas=quotas, uses={"ann": Use(gpu_hours=10)})
    assert why(spent, "long") == (Cause.QUOTA, "ann has used 10.0 of 10 GPU-hours")


def test_the_box_with_the_caches_is_preferred() -> None:
    boxes = [a_box("a"), a_box("b")]
    assert started(planned(boxes, [job("x")], [lease("l", "a", ["a0"])]))["x"].box == "a"
    assert started(planned(boxes, [job("x", home="b")], [lease("l", "a", ["a0"])]))["x"].box == "b"


def test_a_start_is_admitted_only_while_its_place_is_free() -> None:
    boxes, jobs = (a_box(),), (job("x", 2),)
    state = FleetState(boxes, jobs)
    (start,) = plan(state, NOW).starts
    assert admits(state, start, NOW)
    assert not admits(replace(state, jobs=()), start, NOW)
    assert not admits(replace(state, boxes=()), start, NOW)
    assert not admits(replace(state, boxes=(replace(boxes[0], state=BoxState.PAUSED),)), start, NOW)
    assert not admits(replace(state, leases=(lease("l", "a", start.gpus[:1]),)), start, NOW)
    assert not admits(replace(state, leases=(lease("x", "a", ["a7"]),)), start, NOW)
    assert not admits(state, replace(start, gpus=start.gpus[:1]), NOW)
