"""A box whose end is known takes what is likely to be done by then, and is no reason to call a job hopeless."""

from __future__ import annotations

import pytest

from mlflow_lmms.planner.fleet import GIB, Box, Cause, FleetState, Gpu, Job
from mlflow_lmms.planner.parts import idle_places
from mlflow_lmms.planner.plan import plan

NOW = 1000.0


def box(name: str, ends_at: float | None) -> Box:
    return Box(name, (Gpu(f"{name}-0", "H100", 80 * GIB),), cpu_slots=1, ends_at=ends_at)


def job(part: str, estimated_s: float | None, gpus: int = 1) -> Job:
    return Job("run", part, "ada", gpus, 0.0, estimated_s=estimated_s)


@pytest.mark.parametrize(
    ("estimated_s", "left_s", "starts"),
    [(600.0, 600.0, True), (601.0, 600.0, False), (None, 900.0, True), (None, 899.0, False)],
)
def test_a_job_starts_where_it_is_likely_to_end_in_time(
    estimated_s: float | None, left_s: float, starts: bool
) -> None:
    made = plan(FleetState((box("b", NOW + left_s),), (job("p", estimated_s),)), NOW)
    assert bool(made.starts) is starts
    if not starts:
        (wait,) = made.waits
        assert wait.cause is Cause.BOXES_CLOSED
        assert not wait.never
        assert "b ends before the job is likely to be done" in wait.reason


def test_long_work_goes_to_the_box_that_stays_and_short_work_beside_it() -> None:
    boxes = (box("ends", NOW + 100), box("stays", None))
    made = plan(FleetState(boxes, (job("long", 5000.0), job("short", 50.0))), NOW)
    assert {start.job: start.box for start in made.starts} == {"run-long": "stays", "run-short": "ends"}


def test_a_run_is_not_spread_over_a_box_that_ends_too_soon() -> None:
    state = FleetState((box("ends", NOW + 100), box("stays", None)), ())
    empty = plan(state, NOW)
    assert idle_places(state, empty, job("p", 5000.0), NOW) == 1
    assert idle_places(state, empty, job("p", 50.0), NOW) == 2
