"""One run on two boxes at once: real server, queue server, planner and workers."""

from __future__ import annotations

from fault_world import FaultWorld, until


def test_the_tasks_of_a_run_are_spread_over_two_boxes(fault_world: FaultWorld) -> None:
    fault_world.end_boxes()
    for name in ("one", "two"):
        fault_world.box(name, "--cpu-slots", "1")
    # Tasks that no other test of this fleet runs: what is known to take a second is not worth a second place.
    run = fault_world.submit("digits_sum", "digits_robust", linger="generate")

    def boxes() -> set[str]:
        return {lease.box for job, lease in fault_world.leases().items() if job.startswith(run.run_id)}

    until(lambda: boxes() == {"one", "two"}, "both boxes to work on the run")
    run.go()
    facts = run.ends()
    assert {task["part"] for task in facts["tasks"]} == {"0", "1"}
    assert [task["state"] for task in facts["tasks"]] == ["finished", "finished"]
    fault_world.end_boxes()
