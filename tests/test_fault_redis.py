"""The queue server is away, frozen, restarted or empty while jobs wait and run (docs/faults.md, table C)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from fault_report import FaultReport
from fault_world import Box, FaultWorld, Run, alive, until


@pytest.fixture(autouse=True)
def _queue_server_is_back(fault_world: FaultWorld) -> Iterator[None]:
    yield
    if fault_world.valkey.ended() is not None or fault_world.valkey.process is None:
        fault_world.valkey.start()
    fault_world.thaw_valkey()


def running(world: FaultWorld) -> tuple[Run, list[int]]:
    """An evaluation in the middle of its answers; its processes."""
    run = world.submit(linger="score", only=1)
    return run, [process.pid for process in run.linger("score")]


@pytest.mark.fault("C", "killed for 2 s (AOF) during a job: the job goes on")
def test_a_short_outage_does_not_disturb_a_job(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    run, tree = running(fault_world)
    (slot,) = box.slots()
    fault.strikes()
    fault_world.kill_valkey()
    time.sleep(2)  # the fault itself: so long is it away
    fault_world.valkey.start()
    fault.mended()
    until(run.lease, "the lease to be there again")
    assert [process.pid for process in run.processes()] == tree
    run.go()
    fault.settles(fault_world, [run])
    assert run.attempt() == 1
    assert alive(slot)


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.fault("C", "away for longer than the TTL: the part ends by itself first")
def test_a_long_outage_fences_the_job(fault_world: FaultWorld, box: Box, fault: FaultReport, how: str) -> None:
    run, _ = running(fault_world)
    tree = run.processes()
    fault.strikes()
    if how == "killed":
        fault_world.kill_valkey()
    else:
        fault_world.freeze_valkey()
    until(lambda: not any(map(alive, tree)), "the part to end by itself")
    fault.mended()  # nobody could be given the lease so far: the only one who gives leases was away
    fault.note = f"{how}; time until its processes had ended, TTL {fault_world.ttl_s:.0f} s"
    assert "attempt 2" not in run.notes()
    if how == "killed":
        fault_world.valkey.start()
    else:
        fault_world.thaw_valkey()
    until(lambda: "attempt 2" in run.notes(), "the job to run again")
    fault.settles(fault_world, [run])
    assert len(run.asked()) == 20


@pytest.mark.fault("C", "killed and restarted while jobs wait: order and jobs are there")
def test_waiting_jobs_survive_a_kill(fault_world: FaultWorld, fault: FaultReport) -> None:
    for box in fault_world.boxes:
        box.kill()
    runs = [fault_world.submit() for _ in range(3)]
    until(lambda: len(fault_world.queue.queued()) == 3, "the jobs to wait")
    fault.strikes()
    fault_world.kill_valkey()
    fault_world.valkey.start()
    box = fault_world.box("later", "--cpu-slots", "2")
    fault.settles(fault_world, runs)
    assert [run.attempt() for run in runs] == [1, 1, 1]
    box.kill()


@pytest.mark.fault("C", "wiped: waiting jobs and running ones are known again")
def test_a_wiped_queue_server_is_filled_again(fault_world: FaultWorld, box: Box, fault: FaultReport) -> None:
    run, tree = running(fault_world)
    waiting = [fault_world.submit(priority=priority) for priority in ("low", "high")]
    fault.strikes()
    fault_world.wipe_valkey()
    until(lambda: len(fault_world.queue.queued()) == 2 and run.lease(), "queue and lease to be there again")
    fault.mended()
    assert [process.pid for process in run.processes()] == tree, "the running job was disturbed"
    run.go()
    fault.settles(fault_world, [run, *waiting])
    assert [each.attempt() for each in (run, *waiting)] == [1, 1, 1]
    assert waiting[1].facts()["tasks"][0]["started_at"] <= waiting[0].facts()["tasks"][0]["started_at"]


@pytest.mark.fault("C", "wiped while no box is there: tokens still grow")
def test_tokens_do_not_start_again(fault_world: FaultWorld, fault: FaultReport) -> None:
    box = fault_world.box("earlier", "--cpu-slots", "1")
    run = fault_world.submit(linger="score", only=1)
    run.linger("score")
    lease = run.lease()
    assert lease is not None
    box.kill()
    fault.strikes()
    fault_world.wipe_valkey()
    box = fault_world.box("afterwards", "--cpu-slots", "1")
    until(lambda: "attempt 2" in run.notes(), "the job to run again")
    fault.mended()
    fault.settles(fault_world, [run])
    assert int(fault_world.redis.get("lmms:fence") or 0) > lease.token
    box.kill()
