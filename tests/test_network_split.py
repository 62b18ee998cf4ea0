"""Two boxes in network namespaces, one cut off in mid-run and healed (docs/faults.md, table E)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fault_report import FaultReport
from fault_world import TASK, alive, until
from mlflow_process import ADMIN, free_port
from network_boxes import NetworkWorld, TcpQueue, refusal


@pytest.fixture(scope="module")
def network_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkWorld]:
    """Two boxes' places, `left` and `right`, and the servers between them."""
    if reason := refusal():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("network")
    world = NetworkWorld(folder, auth=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
        try:
            world.lay(TcpQueue(folder / "queue", free_port()), "left", "right")
            world.start()
            yield world
        finally:
            world.close()


@pytest.fixture
def fault_world(network_world: NetworkWorld) -> Iterator[NetworkWorld]:
    """The world of this file's tests."""
    yield network_world
    for cable in network_world.cables.values():
        cable.plug()


@pytest.mark.parametrize("phase", ["generate", "write"])
@pytest.mark.fault("E", "one of two boxes cut off in mid-run, then healed")
def test_a_box_that_is_cut_off_stops_and_works_again(
    fault_world: NetworkWorld, fault: FaultReport, phase: str
) -> None:
    left = fault_world.far_box("left")
    run = fault_world.submit(linger=phase, only=1)
    tree = run.linger(phase)
    right = fault_world.far_box("right")
    aside = fault_world.submit(linger="generate")  # keeps the other box busy: who cleans must not need a free slot
    aside.linger("generate")
    fault_world.cables["left"].pull()
    fault.strikes()
    fault.note = f"{phase}, TTL {fault_world.ttl_s:.0f} s"
    if phase == "write":
        run.go()  # the loser has a whole result, and nobody to give it to
        until(lambda: f"finished {TASK}" in run.notes(), "the loser's result to be there")
    until(lambda: run.job in fault_world.queue.queued(), "the job to wait again")
    assert not any(map(alive, tree)), "the job was given away while it still ran on the box that is cut off"
    aside.go()
    run.ends()
    fault.mended()
    until(lambda: not left.horses(), "the box that is cut off to have stopped")
    assert alive(left.process), "a box without a network waits for it"
    fault_world.cables["left"].plug()
    until(left.announced, "the healed box to be known again")
    right.kill()
    after = fault_world.submit()
    after.ends()
    assert (left.data / "spool" / after.run_id).exists() or after.attempt() == 1
    fault.settles(fault_world, [run, aside, after])
    assert [step for step, _ in run.recorded()] == [2], "the loser's result was recorded"
    assert (run.attempt(), aside.attempt(), after.attempt()) == (2, 1, 1)
    left.kill()


@pytest.mark.fault("E", "cable pulled for less than the TTL: nobody notices")
def test_a_short_cut_disturbs_nobody(fault_world: NetworkWorld, fault: FaultReport) -> None:
    box = fault_world.far_box("left")
    run = fault_world.submit(linger="score")
    tree = run.linger("score")
    before = run.lease()
    assert before is not None
    fault_world.cables["left"].pull()
    fault.strikes()
    # Longer than between two renewals, and short enough for the kernel to find the way again before the box gives up.
    until(
        lambda: fault_world.now() + fault_world.ttl_s - (run.lease() or before).expires_at > 1.5,
        "a renewal to have been missed",
    )
    fault_world.cables["left"].plug()
    until(lambda: (lease := run.lease()) and lease.expires_at > before.expires_at + 3, "the lease to be renewed")
    fault.mended()
    assert all(map(alive, tree))
    run.go()
    fault.settles(fault_world, [run])
    assert run.attempt() == 1
    box.kill()
