"""Control groups of leases on this machine's kernel: who escapes everything else is found and killed all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker import cgroup
from worker.process_tree import LEASE_VARIABLE, enclose, kill_all, processes_of
from worker.runner_process import RunnerEvent, RunnerProcess

# It leaves a process behind that has another session, no parent of ours and no environment.
ESCAPE = ["setsid", "sh", "-c", "env -i setsid sleep 300 & exit 0"]
TREE = f"""
import subprocess, sys
sys.stdin.readline()
subprocess.Popen({ESCAPE!r}).wait()
print("up", flush=True)
sys.stdin.read()
"""


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def escaped(since: set[int]) -> set[int]:
    """The sleeping processes of this machine that were not there before."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes() == b"sleep\x00300\x00":
                found.add(int(entry.name))
        except OSError:
            continue
    return found - since


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark; whatever escaped and could not be found is killed afterwards."""
    mark, before = f"test-{uuid.uuid4().hex}.p0#1", escaped(set())
    yield mark
    kill_all(mark)
    cgroup.tidy()
    for pid in escaped(before):
        # Another test may have started one: only those without any environment are ours.
        if Path(f"/proc/{pid}/environ").read_bytes() == b"":
            os.kill(pid, 9)


def group_of(mark: str) -> Path | None:
    own = cgroup.own_group()
    return None if own is None else own / cgroup.group_name(mark)


def test_a_process_that_escaped_everything_is_killed_where_groups_can_be_made(mark: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TREE],
        env={**os.environ, LEASE_VARIABLE: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as tree:
        grouped = enclose(tree.pid, mark)
        assert tree.stdin is not None
        assert tree.stdout is not None
        tree.stdin.write(b"go\n")
        tree.stdin.flush()
        assert tree.stdout.readline() == b"up\n"
        # Without a group nothing is left by which the escaped one could be told from others.
        assert len(processes_of(mark)) == (2 if grouped else 1)
        assert kill_all(mark) == (2 if grouped else 1)
        assert tree.wait() == -9
    assert processes_of(mark) == []
    group = group_of(mark)
    if group is not None:
        wait_for(lambda: kill_all(mark) == 0 and not group.exists())


def test_a_runner_and_all_that_it_starts_are_in_the_group(mark: str, tmp_path: Path) -> None:
    program = (
        "import json, os, subprocess, sys; json.load(sys.stdin);"
        f" subprocess.Popen({ESCAPE!r}).wait();"
        " os.write(int(os.environ['LMMS_EVENT_FD']), b'{\"event\": \"up\"}\\n'); import time; time.sleep(300)"
    )
    environ = {**os.environ, LEASE_VARIABLE: mark}
    runner = RunnerProcess([sys.executable, "-c", program], environ, tmp_path, mark, 0.2)
    runner.start({})
    try:
        wait_for(lambda: any(isinstance(item, RunnerEvent) for item in runner.read(0.1)))
        group = group_of(mark)
        if group is not None and group.is_dir():
            members = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
            assert len(members) == 3, "the keeper, the runner, and the one that escaped"
            assert members == {process.pid for process in processes_of(mark)}
    finally:
        runner.close()
    assert processes_of(mark) == []


def test_a_group_holds_its_own_processes_only(mark: str) -> None:
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as other:
        try:
            assert not cgroup.holds(mark, other.pid)
            if cgroup.add(mark, other.pid):
                assert cgroup.holds(mark, other.pid)
                assert not cgroup.holds(f"{mark}0", other.pid)
            assert kill_all(f"{mark}0") == 0
            assert other.poll() is None
        finally:
            other.kill()


def test_a_process_that_has_ended_leaves_no_group(mark: str) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert not enclose(ended.pid, mark)
    group = group_of(mark)
    assert group is None or not group.exists()


def test_without_a_hierarchy_nothing_is_made(mark: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n")
    monkeypatch.setattr(cgroup, "_MOUNTS", mounts)
    assert cgroup.own_group() is None
    assert not enclose(os.getpid(), mark)
    assert kill_all(mark) == 0


@pytest.mark.parametrize(
    ("own", "root", "folder"),
    [
        ("/", "/", "."),
        ("/user.slice/worker.service", "/", "user.slice/worker.service"),
        ("/docker/abc/slot", "/docker/abc", "slot"),
    ],
)
def test_the_own_group_is_found_below_its_mount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, root: str, folder: str
) -> None:
    point = tmp_path / "cgroup2"
    (point / folder).mkdir(parents=True)
    mounts, process = tmp_path / "mountinfo", tmp_path / "self"
    mounts.write_text(
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n"
        f"41 31 0:38 {root} {point} rw,relatime shared:5 - cgroup2 cgroup2 rw\n"
    )
    process.mkdir()
    (process / "cgroup").write_text(f"9:name=systemd:/\n0::{own}\n")
    monkeypatch.setattr(cgroup, "_MOUNTS", mounts)
    monkeypatch.setattr(cgroup, "_PROC", tmp_path)
    assert cgroup.own_group() == point / folder
