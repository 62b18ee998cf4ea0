"""Cancels and losses in every state of an evaluation (docs/faults.md, table D), to the end in MLflow."""

from __future__ import annotations

import pytest
from fault_report import FaultReport
from fault_world import TASK, Box, FaultWorld, alive, until

from mlflow_lmms.errors import ConflictError, StaleTokenError
from mlflow_lmms.http import HttpApi
from mlflow_lmms.worker_api_client import HeldPart, WorkerApi


@pytest.mark.fault("D", "cancel: queued")
def test_cancel_of_a_waiting_run(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    first = fault_world.submit(linger="generate")
    first.linger("generate")
    run = fault_world.submit()
    fault.strikes()
    fault_world.client.cancel(run.run_id)
    assert run.state() == "cancelled"
    fault.mended()
    first.go()
    first.ends()
    fault.settles(fault_world, [run], as_state="cancelled")
    assert run.notes() == []
    assert run.mlflow_status() == "KILLED"


@pytest.mark.fault("D", "cancel: starting (claimed, no process yet)")
def test_cancel_of_a_claimed_run_without_process(fault_world: FaultWorld, fault: FaultReport) -> None:
    run = fault_world.submit()
    box = fault_world.box("claimed", "--cpu-slots", "1", held="before-fork")
    box.arrives()
    fault.strikes()
    fault_world.client.cancel(run.run_id)
    box.go()
    fault.settles(fault_world, [run], as_state="cancelled")
    assert run.notes() == []
    assert run.mlflow_status() == "KILLED"
    box.kill()


@pytest.mark.parametrize("phase", ["model_load", "build", "generate", "score", "write"])
@pytest.mark.fault("D", "cancel: running, in each phase")
def test_cancel_of_a_running_run(fault_world: FaultWorld, box: Box, fault: FaultReport, phase: str) -> None:
    run = fault_world.submit(linger=phase)
    tree = run.linger(phase)
    fault.note = phase
    fault.strikes()
    fault_world.client.cancel(run.run_id)
    until(lambda: not any(map(alive, tree)), "the processes to end")
    fault.mended()
    fault.settles(fault_world, [run], as_state="cancelled")
    assert run.mlflow_status() == "KILLED"
    assert run.recorded() == []


@pytest.mark.parametrize("point", ["before-recording", "after-recording"])
@pytest.mark.fault("D", "cancel: finishing; whoever comes first wins, and everybody agrees")
def test_cancel_of_a_run_that_records(fault_world: FaultWorld, fault: FaultReport, point: str) -> None:
    run = fault_world.submit()
    box = fault_world.box("recording", "--cpu-slots", "1", held=point)
    box.arrives()
    fault.note = point
    fault.strikes()
    fault_world.client.cancel(run.run_id)
    box.go()
    state = until(lambda: run.state() if run.state() in ("finished", "cancelled") else "", "the run to end")
    fault.settles(fault_world, [run], as_state=state)
    wanted = {"finished": "FINISHED", "cancelled": "KILLED"}[state]
    until(lambda: run.mlflow_status() == wanted, "MLflow to agree")
    assert len(run.recorded()) <= 1
    assert run.recorded() or state == "cancelled"
    box.kill()


@pytest.mark.fault("D", "cancel: after the end")
def test_cancel_comes_too_late(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    run = fault_world.submit()
    run.ends()
    with pytest.raises(ConflictError, match="already ended"):
        fault_world.client.cancel(run.run_id)
    fault.settles(fault_world, [run])
    assert run.mlflow_status() == "FINISHED"


@pytest.mark.parametrize("phase", ["generate", "write"])
@pytest.mark.fault("D", "box lost: another box goes on")
def test_a_lost_box_is_replaced(fault_world: FaultWorld, fault: FaultReport, phase: str) -> None:
    box = fault_world.box("lost", "--cpu-slots", "1")
    run = fault_world.submit(linger=phase, only=1)
    run.linger(phase)
    lease = run.lease()
    assert lease is not None
    other = fault_world.box("other", "--cpu-slots", "1")
    fault.note = f"{phase}, TTL {fault_world.ttl_s:.0f} s"
    fault.strikes()
    box.kill()
    until(lambda: "attempt 2" in run.notes(), "the other box to run it")
    fault.mended()
    fault.settles(fault_world, [run])
    late = WorkerApi(HttpApi(fault_world.server.url), keep_trying=lambda: False)
    with pytest.raises(StaleTokenError):  # what the lost box would say if it came back
        late.task_finished(HeldPart(run.run_id, "0", lease.token), TASK, samples=1, metric="m", score=0.0)
    assert [step for step, _ in run.recorded()] == [2]
    other.kill()


@pytest.mark.parametrize("point", ["before-recording", "after-recording"])
@pytest.mark.fault("D", "SIGKILL of a slot while it records: recorded once per attempt")
def test_a_slot_killed_while_it_records(fault_world: FaultWorld, fault: FaultReport, point: str) -> None:
    run = fault_world.submit()
    box = fault_world.box("writing", "--cpu-slots", "1", held=point)
    box.arrives()
    (slot,) = box.slots()
    fault.note = point
    fault.strikes()
    slot.kill()
    until(lambda: run.state() == "finished", "the result to be recorded")
    fault.mended()
    fault.settles(fault_world, [run])
    assert run.notes().count(f"finished {TASK}") == 1, "a result that lay in the spool was computed again"
    box.kill()


@pytest.mark.fault("D", "MLflow server killed while a job runs: the result waits for it")
def test_a_lost_server_loses_nothing(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    run = fault_world.submit(linger="score")
    run.linger("score")
    server = fault_world.server
    assert server.process is not None
    fault.strikes()
    server.process.kill()
    server.process.wait()
    run.go()
    until(lambda: f"finished {TASK}" in run.notes(), "the runner to end without the server")
    server.start()
    fault.settles(fault_world, [run])
    assert run.attempt() == 1


@pytest.mark.fault("D", "box suspended for longer than the TTL (a partition): its word is refused")
def test_a_box_that_sleeps_does_not_write(fault_world: FaultWorld, fault: FaultReport) -> None:
    box = fault_world.box("sleeper", "--cpu-slots", "1")
    run = fault_world.submit(linger="score", only=1)
    tree = [*run.linger("score"), *box.horses(), *box.slots(), box.process]
    other = fault_world.box("awake", "--cpu-slots", "1")
    for process in tree:
        process.suspend()
    fault.strikes()
    run.ends()
    fault.mended()
    run.go()  # the sleeper's runner would end now, with a result of attempt 1
    for process in reversed(tree):
        process.resume()
    until(lambda: not run.processes(), "the sleeper to see that it has lost the job")
    fault.settles(fault_world, [run])
    assert [step for step, _ in run.recorded()] == [2]
    until(box.announced, "the sleeper to be a box again")
    for each in (box, other):
        each.kill()
