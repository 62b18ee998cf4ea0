"""Jobs that stock RQ loses or finds late, and jobs that nobody may run (docs/faults.md, table B)."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest
from fault_report import FaultReport
from fault_world import Box, FaultWorld, alive, until
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from waiting_job import waiting

from mlflow_lmms.queue_keys import need_fields
from worker.safe_job import SafeJob


@pytest.mark.parametrize("priority", ["high", "low"])
@pytest.mark.fault("B", "slot killed between prepare_execution and the fork, three queues")
def test_a_job_claimed_and_never_begun_is_not_lost(
    fault_world: FaultWorld, fault: FaultReport, priority: str
) -> None:
    run = fault_world.submit(priority=priority)
    box = fault_world.box("prepared", "--cpu-slots", "1", held="before-fork")
    box.arrives()
    (slot,) = box.slots()
    fault.note = f"queue lmms-{priority}"
    fault.strikes()
    slot.kill()
    until(lambda: run.notes(), "the job to run")
    fault.mended()
    fault.settles(fault_world, [run])
    assert fault_world.redis.keys("rq:queue:*:intermediate") == []
    box.kill()


@pytest.mark.fault("B", "box lost while every other slot is busy: somebody cleans")
def test_busy_boxes_find_the_job_of_a_lost_one(fault_world: FaultWorld, fault: FaultReport) -> None:
    busy = fault_world.box("busy", "--cpu-slots", "1")
    long = fault_world.submit(linger="generate")
    long.linger("generate")
    gone = fault_world.box("gone", "--cpu-slots", "1")
    run = fault_world.submit(linger="generate", only=1)
    run.linger("generate")
    fault.strikes()
    gone.kill()
    until(lambda: run.job in fault_world.queue.queued() and not run.lease(), "the job to wait again")
    fault.mended()
    fault.note = "time until it waits again"
    assert long.attempt() == 1
    assert "attempt 2" not in run.notes()
    long.go()
    fault.settles(fault_world, [run, long])
    assert long.attempt() == 1
    busy.kill()


@pytest.mark.fault("B", "box lost, nobody else there: the next one takes the job")
def test_a_box_that_comes_back_finds_its_job(fault_world: FaultWorld, fault: FaultReport) -> None:
    gone = fault_world.box("back", "--cpu-slots", "1")
    run = fault_world.submit(linger="score", only=1)
    run.linger("score")
    fault.strikes()
    gone.kill()
    again = fault_world.box("back", "--cpu-slots", "1")
    until(lambda: "attempt 2" in run.notes(), "the job to run again")
    fault.mended()
    fault.settles(fault_world, [run])
    assert len(run.asked()) == 20, "its answers lay on this box"
    again.kill()


EVIL: dict[str, list[object]] = {
    "os.system": ["os.system", None, ["touch {}"], {}],
    "eval": ["eval", None, ["open('{}', 'w')"], {}],
    "a part with a path in it": ["worker.job.run_part", None, ["../../{}", "0"], {}],
    "no list": ["worker.job.run_part", None, "{}", {}],
}


@pytest.mark.parametrize("kind", [*EVIL, "no JSON", "callback"])
@pytest.mark.fault("B", "evil job payloads")
def test_an_evil_job_does_nothing_and_the_next_one_runs(
    fault_world: FaultWorld, box: Box, fault: FaultReport, kind: str
) -> None:
    target = fault_world.folder / "broken-in"
    ident = "e" * 32 + "-0"
    data = b"\x80\x04cos\nsystem\n" if kind == "no JSON" else b""
    fields: dict[str, object] = {"origin": "lmms-normal", "status": "queued", "timeout": 180}
    if kind == "callback":
        data = json.dumps(["worker.job.run_part", None, ["e" * 32, "0"], {}]).encode()
        fields |= {"success_callback_name": "os.abort", "failure_callback_name": "os.abort"}
    fields["data"] = data or json.dumps(EVIL[kind]).replace("{}", str(target)).encode()
    fault_world.redis.hset(f"rq:job:{ident}", mapping=fields)  # type: ignore[arg-type]
    need: dict[Any, Any] = {**need_fields(waiting("e" * 32, "0"))}
    fault_world.redis.hset(f"lmms:need:{ident}", mapping=need)
    fault.note = kind
    fault.strikes()
    fault_world.redis.lpush("rq:queue:lmms-normal", ident)
    until(lambda: ident not in fault_world.queue.queued(), "the evil job to be taken")
    until(lambda: ident not in fault_world.leases(), "the evil job to be refused")
    fault.mended()
    run = fault_world.submit()
    fault.settles(fault_world, [run])
    assert not target.exists()
    with_status = fault_world.redis.hget(f"rq:job:{ident}", "status")
    if with_status is not None and kind != "no JSON":
        job = SafeJob.fetch(ident, connection=fault_world.redis, serializer=JSONSerializer)
        assert job.get_status() is JobStatus.FAILED
    fault_world.redis.delete(f"rq:job:{ident}", f"lmms:need:{ident}")
    assert all(alive(psutil.Process(slot.pid)) for slot in box.slots())
