"""When an evaluation counts as hung: by phase, by progress, by the part's time, and by what the kernel says of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from worker.process_tree import LEASE_VARIABLE, kill_all
from worker.watchdog import LOOK_EVERY_S, STOPPED_S, Watchdog, all_stopped


def watchdog(**changes: Any) -> Watchdog:
    limits: dict[str, Any] = {"deadline_s": 1000.0, "no_progress_s": {"other": 100.0}, "phase_deadlines_s": {}}
    return Watchdog(now=0.0, **{**limits, **changes})


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"event": kind, **fields}


def test_the_part_has_its_time() -> None:
    watched = watchdog(deadline_s=50.0)
    assert watched.hang(50.0) is None
    hang = watched.hang(50.1)
    assert hang is not None
    assert hang.whole_part
    assert "longer than 50 s (MLFLOW_LMMS_DEADLINE_S)" in hang.message


@pytest.mark.parametrize(
    "progress",
    [
        event("phase", task="t", phase="generate"),
        event("task-started", task="t"),
        event("task-finished", task="t"),
        event("score", task="t"),
        event("ask", requests=3),
        event("progress", phase="generate", done=1),
        event("heartbeat", phase="generate", done=8),
    ],
)
def test_what_gets_done_is_progress(progress: dict[str, Any]) -> None:
    watched = watchdog()
    watched.take(progress, 90.0)
    assert watched.hang(190.0) is None
    assert watched.hang(190.1) is not None


@pytest.mark.parametrize("kind", ["heartbeat", "progress"])
def test_a_count_that_stands_still_is_no_progress(kind: str) -> None:
    watched = watchdog()
    for now in range(0, 100, 5):
        watched.take(event(kind, phase="generate", done=7), float(now))
        watched.take(event("log", message="retrying"), float(now))
    assert watched.hang(100.1) is not None


def test_each_rank_counts_for_itself() -> None:
    watched = watchdog()
    for now in range(0, 200, 10):
        watched.take(event("heartbeat", rank=0, done=5), float(now))
        watched.take(event("heartbeat", rank=1, done=5 + now), float(now))
    assert watched.hang(200.0) is None
    for now in range(200, 301, 10):
        watched.take(event("heartbeat", rank=0, done=5), float(now))
        watched.take(event("heartbeat", rank=1, done=9), float(now))
    assert watched.hang(301.0) is not None


@pytest.mark.parametrize("phase", ["import", "model_load", "dataset", "generate", "score", "judge"])
def test_each_phase_has_its_own_limits_and_is_named(phase: str) -> None:
    watched = watchdog(no_progress_s={"other": 500.0, phase: 10.0})
    watched.take(event("phase", task="mme", phase=phase), 1.0)
    hang = watched.hang(11.1)
    assert hang is not None
    assert not hang.whole_part
    assert hang.message.startswith(f"no progress in phase {phase} of mme for 10 s")
    assert "MLFLOW_LMMS_NO_PROGRESS_S" in hang.message
    watched.take(event("phase", task="mme", phase="another"), 11.2)
    assert watched.hang(500.0) is None


def test_a_phase_may_make_progress_for_no_longer_than_its_deadline() -> None:
    watched = watchdog(phase_deadlines_s={"model_load": 20.0})
    watched.take(event("phase", task=None, phase="model_load"), 5.0)
    for now in range(5, 26):
        watched.take(event("heartbeat", done=now), float(now))
        watched.take(event("phase", task=None, phase="model_load"), float(now))
        assert watched.hang(float(now)) is None
    hang = watched.hang(25.1)
    assert hang is not None
    assert "in phase model_load longer than 20 s (MLFLOW_LMMS_PHASE_DEADLINES_S)" in hang.message


def test_waiting_for_an_endpoint_is_no_hang() -> None:
    watched = watchdog()
    for now in range(0, 900, 50):
        watched.waits(float(now))
        assert watched.hang(float(now)) is None


def test_a_stopped_process_is_noticed_unless_it_goes_on() -> None:
    stopped = [False]
    watched = watchdog(no_progress_s={}, is_stopped=lambda: stopped[0])

    def seconds_until_hang(begin: float) -> float | None:
        for step in range(int((STOPPED_S + 3 * LOOK_EVERY_S) * 2)):
            hang = watched.hang(begin + step / 2)
            if hang is not None:
                assert "SIGSTOP" in hang.message
                return step / 2
        return None

    assert seconds_until_hang(0.0) is None
    stopped[0] = True
    noticed = seconds_until_hang(100.0)
    assert noticed is not None
    assert STOPPED_S <= noticed <= STOPPED_S + 2 * LOOK_EVERY_S
    stopped[0] = False
    assert seconds_until_hang(300.0) is None


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is marked as a lease's."""
    mark = f"watchdog-{os.getpid()}#1"
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"],
        env={**os.environ, LEASE_VARIABLE: mark},
        start_new_session=True,
    )
    yield child
    kill_all(mark)
    child.wait()


def test_the_kernel_tells_which_processes_are_stopped(process: subprocess.Popen[bytes]) -> None:
    mark = f"watchdog-{os.getpid()}#1"

    def eventually(expected: bool) -> None:
        deadline = time.monotonic() + 10
        while all_stopped(mark, keeper=0) is not expected:
            assert time.monotonic() < deadline, f"it is not {'stopped' if expected else 'running'}"
            time.sleep(0.02)

    eventually(expected=False)
    process.send_signal(signal.SIGSTOP)
    eventually(expected=True)
    assert not all_stopped(mark, keeper=process.pid), "the keeper alone does not count"
    process.send_signal(signal.SIGCONT)
    eventually(expected=False)
    assert not all_stopped("nobody#1", keeper=0)
