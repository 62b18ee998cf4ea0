"""Stops and kills of what works on a job (docs/faults.md, table A): everything is a real process."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest
from fault_report import FaultReport
from fault_world import Box, FaultWorld, Run, alive, environ_of, until, words
from rq.command import send_stop_job_command
from rq.job import Job
from rq.serializers import JSONSerializer


def stop_by_rq(run: Run) -> None:
    send_stop_job_command(run.world.redis, run.job, serializer=JSONSerializer)


def family(run: Run, phase: str = "generate") -> list[psutil.Process]:
    """The processes of a runner with children: one in its group, one of `subprocess.run`, one under setsid."""
    run.linger(phase)

    def sleeping() -> list[int]:
        return [process.pid for process in run.processes() if words(process)[:1] == ["sleep"]]

    until(lambda: len(sleeping()) == 3, "the family to be there")
    assert len({os.getsid(pid) for pid in sleeping()}) == 2, "one has a session of its own"
    return run.processes()


@pytest.mark.fault("A", "stop-job with children")
def test_rqs_stop_command_ends_the_children(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    run = fault_world.submit(linger="generate")
    tree = run.linger("generate")
    fault.strikes()
    stop_by_rq(run)
    until(lambda: not any(map(alive, tree)), "the processes to end")
    fault.mended()
    fault.settles(fault_world, [run], as_state="failed")
    assert "stopped by hand" in run.facts()["tasks"][0]["message"]


@pytest.mark.parametrize("how", ["stop-job", "cancel"])
@pytest.mark.fault("A", "stop-job with a grandchild under setsid")
def test_a_stop_finds_the_grandchild_under_setsid(
    fault_world: FaultWorld, box: Box, fault: FaultReport, how: str
) -> None:
    run = fault_world.submit(linger="generate", family=1)
    tree = family(run)
    fault.note = how
    fault.strikes()
    if how == "cancel":
        fault_world.client.cancel(run.run_id)
    else:
        stop_by_rq(run)
    until(lambda: not any(map(alive, tree)), "the processes to end")
    fault.mended()
    fault.settles(fault_world, [run], as_state="cancelled" if how == "cancel" else "failed")


@pytest.mark.fault("A", "a process that ignores SIGTERM")
def test_a_process_that_ignores_the_request_is_killed(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    run = fault_world.submit(linger="generate", family=1, stubborn=1)
    tree = family(run)
    fault.strikes()
    fault_world.client.cancel(run.run_id)
    until(lambda: not any(map(alive, tree)), "the processes to end")
    fault.mended()
    fault.settles(fault_world, [run], as_state="cancelled")


@pytest.mark.parametrize("phase", ["overtime", "silent"])
@pytest.mark.fault("A", "job timeout: Popen and subprocess.run, children and grandchild")
def test_a_job_over_its_time_leaves_nobody(fault_world: FaultWorld, box: Box, fault: FaultReport, phase: str) -> None:
    run = fault_world.submit(linger=phase, family=1)
    tree = family(run, phase)
    fault.note = {"overtime": "longer than its phase may take", "silent": "no progress"}[phase]
    fault.strikes()
    until(lambda: not any(map(alive, tree)), "the processes to end")
    fault.mended()
    fault.settles(fault_world, [run], as_state="failed")
    assert run.facts()["tasks"][0]["failure"] == "timeout"


@pytest.mark.fault("A", "RQ's own job_timeout of 1 s is not obeyed")
def test_rqs_alarm_does_not_strike(fault_world: FaultWorld, fault: FaultReport) -> None:
    run = fault_world.submit(linger="generate", pause=0.1)
    job = Job.fetch(run.job, connection=fault_world.redis, serializer=JSONSerializer)
    job.timeout = 1
    job.save()
    box = fault_world.box("alarm", "--cpu-slots", "1")
    run.linger("generate")
    run.go()  # two seconds of requests from here
    fault.strikes()
    fault.settles(fault_world, [run])
    assert run.attempt() == 1
    box.kill()


@pytest.mark.fault("A", "SIGTERM once: what runs is finished, nothing new is taken")
def test_one_sigterm_drains(fault_world: FaultWorld, fault: FaultReport) -> None:
    box = fault_world.box("drained", "--cpu-slots", "1")
    run = fault_world.submit(linger="generate")
    tree = run.linger("generate")
    fault.strikes()
    box.process.send_signal(signal.SIGTERM)
    until(lambda: not box.announced(), "the box to leave the fleet")
    assert all(map(alive, tree))
    other = fault_world.submit()
    run.go()
    assert box.process.wait(60) == 0
    fault.mended()
    assert (run.state(), run.attempt(), other.state()) == ("finished", 1, "queued")
    fault_world.client.cancel(other.run_id)
    fault.settles(fault_world, [run])


@pytest.mark.fault("A", "SIGTERM twice: the job goes back and on elsewhere")
def test_two_sigterms_give_the_job_back(fault_world: FaultWorld, fault: FaultReport) -> None:
    box = fault_world.box("giving", "--cpu-slots", "1")
    run = fault_world.submit(linger="score", family=1)
    tree = run.linger("score")
    box.process.send_signal(signal.SIGTERM)
    until(lambda: not box.announced(), "the first request to be seen")
    fault.strikes()
    box.process.send_signal(signal.SIGTERM)
    assert box.process.wait(60) == 0
    assert not any(map(alive, tree))
    assert fault_world.queue.queued() == [run.job]
    run.go()
    again = fault_world.box("taking", "--cpu-slots", "1")
    until(lambda: run.attempt() == 2 or run.state() == "finished", "another box to take it")
    fault.mended()
    fault.settles(fault_world, [run])
    again.kill()


@pytest.mark.fault("A", "SIGKILL of a slot")
def test_a_killed_slot_leaves_nobody_and_the_job_runs_again(
    fault_world: FaultWorld, box: Box, fault: FaultReport
) -> None:
    run = fault_world.submit(linger="score", only=1, family=1)
    tree = [*run.linger("score"), *box.horses()]
    (slot,) = box.slots()
    fault.strikes()
    slot.kill()
    until(lambda: not any(map(alive, tree)), "the processes to end")
    until(lambda: "attempt 2" in run.notes(), "the job to run again")
    fault.mended()
    fault.settles(fault_world, [run])
    assert run.attempt() == 2


@pytest.mark.parametrize("point", ["before-fork", "after-fork", "before-name"])
@pytest.mark.parametrize("how", ["stop-job", "cancel"])
@pytest.mark.fault("A", "stop before the fork, just after it, before worker_name is set")
def test_a_stop_while_the_job_starts_kills_nobody_else(
    fault_world: FaultWorld, fault: FaultReport, point: str, how: str
) -> None:
    run = fault_world.submit(linger="model_load")
    box = fault_world.box("held", "--cpu-slots", "1", held=point)
    box.arrives()
    fault.note = f"{how}, {point}"
    (slot,) = box.slots()
    fault.strikes()
    if how == "cancel":
        fault_world.client.cancel(run.run_id)
    else:  # what `send_stop_job_command` would send if it knew the slot; stock RQ raises here
        (lease,) = fault_world.leases().values()
        fault_world.redis.publish(f"rq:pubsub:{lease.slot}", json.dumps({"command": "stop-job", "job_id": run.job}))
    box.go()
    fault.settles(fault_world, [run], as_state="cancelled" if how == "cancel" else "failed")
    assert alive(slot), "the slot was killed too"
    assert alive(box.process)
    after = fault_world.submit()
    after.ends()
    # A job whose lease outlives its box would come first in the next test.
    until(lambda: not fault_world.leases(), "the last lease to be given up")
    box.kill()


@pytest.mark.parametrize("what", ["runner", "keeper", "horse"])
@pytest.mark.fault("A", "SIGKILL of the runner, its keeper, the job's process")
def test_what_is_killed_below_a_slot_runs_again(
    fault_world: FaultWorld, box: Box, fault: FaultReport, what: str
) -> None:
    run = fault_world.submit(linger="score", only=1, family=1)
    tree = run.linger("score")
    victim = {
        "runner": lambda: next(process for process in tree if "fault_runner.py" in words(process)[-1]),
        "keeper": lambda: next(process for process in tree if "kept" in words(process)),
        "horse": lambda: box.horses()[0],
    }[what]()
    fault.note = what
    (slot,) = box.slots()
    fault.strikes()
    victim.kill()
    until(lambda: not any(map(alive, tree)), "the processes to end")
    until(lambda: "attempt 2" in run.notes(), "the job to run again")
    fault.mended()
    fault.settles(fault_world, [run])
    assert len(run.asked()) == 20, "answers that were safe were asked again"
    assert alive(slot)


@pytest.mark.fault("A", "SIGKILL of the supervisor")
def test_a_killed_supervisor_leaves_its_job_to_end(fault_world: FaultWorld, fault: FaultReport) -> None:
    box = fault_world.box("headless", "--cpu-slots", "1")
    run = fault_world.submit(linger="generate")
    tree = run.linger("generate")
    slots = box.slots()
    fault.strikes()
    box.process.kill()
    box.process.wait()
    assert environ_of(tree[0].pid)["LMMS_LEASE"].startswith(run.run_id)
    run.go()
    run.ends()
    assert psutil.wait_procs(slots, timeout=30)[1] == []
    fault.mended()
    fault.settles(fault_world, [run])
    assert run.attempt() == 1
