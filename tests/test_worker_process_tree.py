"""Processes of a lease: found and killed wherever they moved, and nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from worker.process_tree import LEASE_VARIABLE, Process, kill_all, processes_of, send

# A parent with a plain child, a child in a session of its own, and a child of that whose parent ended and whose
# environment was emptied.
TREE = """
import os, subprocess, sys
subprocess.Popen(["sleep", "300"])
subprocess.Popen(["setsid", "sleep", "300"])
subprocess.Popen(["setsid", "sh", "-c", "env -i sleep 300 & sleep 300"])
subprocess.Popen(["setsid", "sh", "-c", "setsid sleep 300 & exit 0"]).wait()
print("up", flush=True)
sys.stdin.read()
"""


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"test-{uuid.uuid4().hex}.p0#1"
    yield mark
    kill_all(mark)


def start_tree(mark: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TREE],
        env={**os.environ, LEASE_VARIABLE: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_a_whole_tree_is_found_and_killed(mark: str) -> None:
    with start_tree(mark) as tree:
        wait_for(lambda: len(processes_of(mark)) >= 7)
        assert kill_all(mark) >= 7
        assert processes_of(mark) == []
        assert tree.wait() == -signal.SIGKILL


def test_what_is_left_of_a_tree_is_found_after_its_root_was_killed(mark: str) -> None:
    with start_tree(mark) as tree:
        tree.kill()
        tree.wait()
        assert len(processes_of(mark)) >= 4
        kill_all(mark)
        assert processes_of(mark) == []


def test_another_lease_and_this_process_are_left_alone(mark: str) -> None:
    other = subprocess.Popen(["sleep", "300"], env={LEASE_VARIABLE: f"{mark}0"}, start_new_session=True)
    try:
        assert kill_all(mark) == 0
        assert other.poll() is None
        assert processes_of("") == []
    finally:
        other.kill()
        other.wait()


def test_a_marked_process_in_our_own_session_does_not_draw_us_in(mark: str) -> None:
    child = subprocess.Popen(["sleep", "300"], env={LEASE_VARIABLE: mark})
    assert [process.pid for process in processes_of(mark)] == [child.pid]
    assert kill_all(mark) == 1
    assert child.wait() == -signal.SIGKILL


def test_a_signal_does_not_reach_a_process_that_took_over_the_pid() -> None:
    child = subprocess.Popen(["sleep", "300"])
    try:
        assert not send(Process(child.pid, os.getpid(), 0, started=1), signal.SIGKILL)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert not send(Process(child.pid, os.getpid(), 0, started=1), signal.SIGKILL)
