"""Warm start with real processes and a made-up runner: what a copy is, how it ends, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis
from fleet_boxes import announce
from waiting_job import waiting
from warm_box import Box, until

import worker
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.settings import Settings
from worker.leases import Slot, mark
from worker.process_tree import kill_all, processes_of
from worker.slot import slot_input

# A child in its own session without any variable whose parent has ended, and a forked one in another session.
STRAYS = """
import subprocess
subprocess.Popen(["setsid", "sh", "-c", "env -i setsid sleep 300 & exit 0"]).wait()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(300)
    os._exit(0)
os.wait()
tell(up=os.getpid())
time.sleep(300)
"""
FACTS = """
import multiprocessing, resource, signal, threading
main = sys.modules["__main__"]
import numpy, random
numpy.ones((300, 300)) @ numpy.ones((300, 300))
tell(
    cwd=os.getcwd(), argv=sys.argv, path=sys.path, umask=os.umask(0o22), main=main.__spec__.name, name=main.__name__,
    flags=list(sys.flags), ignored=[int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN],
    handled=[int(n) for n in signal.valid_signals() if callable(signal.getsignal(n))],
    blocked=[int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])], threads=threading.active_count(),
    tasks=len(os.listdir("/proc/self/task")), led=os.getsid(0) == os.getppid(), group=os.getpgid(0) == os.getppid(),
    environ={k: v for k, v in os.environ.items() if k not in ("LMMS_LEASE", "LMMS_EVENT_FD")},
    shown="LMMS_LEASE=" + os.environ["LMMS_LEASE"] in open("/proc/self/environ").read().split("\\0"),
    open=sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{n}")),
    limits=[resource.getrlimit(n) for n in range(16)], nice=os.nice(0),
    subreaper=int(open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0]),
)
tell(drawn=[random.random(), float(numpy.random.rand())])
"""
WORKER = """
import json, os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from warm_box import Box
box = Box(pathlib.Path(sys.argv[2]))
box.make_ready()
process = box.start(sys.argv[3])
box.hear(process)
print(json.dumps([box.mark, box.server_pids()]), flush=True)
time.sleep(300)
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.warm.stop()


@pytest.fixture
def ready(box: Box) -> Box:
    box.make_ready()
    return box


def test_the_first_run_is_cold_and_the_next_one_a_copy_with_the_same_exit_status(ready: Box) -> None:
    end = ready.run("print('hello')\ntell(id=request['status'])", status=7)
    assert end.forked
    assert (end.code, end.lines, end.told[1:]) == (7, ["hello"], [{"id": 7}])
    assert ready.run().code == 0


def test_a_copy_is_what_a_cold_start_would_be(box: Box) -> None:
    box.imports("import numpy")
    box.make_ready()
    cold, warm = box.run(FACTS, warm=False), box.run(FACTS)
    assert warm.forked and not cold.forked
    assert warm.told[1] == cold.told[1]
    assert warm.told[1]["shown"]
    again = box.run(FACTS)
    assert warm.told[2]["drawn"][0] != again.told[2]["drawn"][0], "unseeded numbers must differ, as cold ones do"
    assert warm.told[2]["drawn"][1] != again.told[2]["drawn"][1]


def test_an_ignored_interrupt_stays_ignored(ready: Box) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a slot's process does
    try:
        cold, warm = ready.run(FACTS, warm=False), ready.run(FACTS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.SIGINT in cold.told[1]["ignored"]
    assert warm.told[1]["ignored"] == cold.told[1]["ignored"]


def test_a_killed_copy_is_told_from_one_that_ended(ready: Box) -> None:
    end = ready.run("os.kill(os.getpid(), 9)")
    assert end.forked
    assert end.code == 128 + signal.SIGKILL
    assert ready.run().forked


def test_an_error_that_nobody_catches_is_shown_and_fails_the_copy(ready: Box) -> None:
    end = ready.run("raise ValueError('no good')")
    assert (end.code, end.lines[-1]) == (1, "ValueError: no good")


def test_stop_ends_the_copy_and_everything_below_it(ready: Box) -> None:
    before = set(psutil.pids())
    process = ready.start(STRAYS)
    assert ready.hear(process)[0]["forked"]
    assert len(processes_of(ready.mark)) >= 6
    process.stop()
    assert ready.end(process).code == 128 + signal.SIGTERM
    assert _sleepers(before) == []
    assert ready.run().forked, "the server must outlive a stopped run"


def test_a_copy_may_wrap_up_and_a_stubborn_one_is_killed_after_the_grace(ready: Box) -> None:
    bye = "import signal\nsignal.signal(15, lambda *_: (print('bye', flush=True), os._exit(3)))\n"
    process = ready.start(bye + "tell(up=1)\ntime.sleep(300)")
    ready.hear(process)
    process.stop()
    assert (end := ready.end(process)).code == 3
    assert end.lines == ["bye"]
    process = ready.start("import signal\nsignal.signal(15, signal.SIG_IGN)\ntell(up=1)\ntime.sleep(300)")
    ready.hear(process)
    started = time.monotonic()
    process.stop()
    assert ready.end(process).code == 128 + signal.SIGKILL
    assert time.monotonic() - started < 5


def test_the_lease_s_processes_are_found_by_its_mark(ready: Box) -> None:
    before = set(psutil.pids())
    process = ready.start(STRAYS)
    runner = ready.hear(process)[1]["up"]
    found = {item.pid for item in processes_of(ready.mark)}
    assert runner in found
    assert not found & set(ready.server_pids())
    kill_all(ready.mark)
    assert _sleepers(before) == []
    process.close()
    until(lambda: not ready.warm.serving(), what="the end of a server whose run was torn away")


@pytest.mark.parametrize("victim", ["runner", "its keeper", "place-holder", "place-holder's keeper", "server"])
def test_kill_9_of_any_process_leaves_nothing(ready: Box, victim: str) -> None:
    before = set(psutil.pids()) | set(ready.server_pids())
    process = ready.start(STRAYS)
    runner = psutil.Process(ready.hear(process)[1]["up"])
    pids = {
        "runner": runner.pid,
        "its keeper": runner.ppid(),
        "place-holder": psutil.Process(process.process.pid).children()[0].pid,
        "place-holder's keeper": process.process.pid,
        "server": ready.server_pids()[1],
    }
    os.kill(pids[victim], signal.SIGKILL)
    assert ready.end(process).code != 0
    until(lambda: not _sleepers(before), what="the end of the strays")
    assert ready.run().forked == (victim not in ("server", "its keeper"))
    ready.warm.tend()
    until(ready.warm.serving)
    assert ready.run().forked


def test_kill_9_of_the_worker_leaves_nothing(tmp_path: Path) -> None:
    before = set(psutil.pids())
    command = [sys.executable, "-P", "-c", WORKER, str(Path(__file__).parent), str(tmp_path), STRAYS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        mark, server = json.loads(process.stdout.readline())
        assert processes_of(mark)
        process.kill()
    until(lambda: not processes_of(mark) and not any(map(psutil.pid_exists, server)), what="the end of everything")
    assert _sleepers(before) == []


@pytest.fixture
def slot(empty_valkey: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], EvaluationQueue]]:
    """A slot's process on a queue server of its own."""
    settings = Settings(data_folder=tmp_path, redis_url=empty_valkey, stop_grace_s=0.5, box="b", warm_start=True)
    script = Path(__file__).with_name("stand_in_warm_slot.py")
    environ = {**os.environ, "PYTHONPATH": f"{Path(worker.__file__).parents[1]}:{Path(__file__).parent}"}
    process = subprocess.Popen([sys.executable, "-P", script], stdin=subprocess.PIPE, cwd=tmp_path, env=environ)
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(slot_input(Slot("b", "b.cpu0"), settings, exit_when_idle=False))
    with redis.Redis.from_url(empty_valkey) as connection:
        announce(connection, "b")
    yield process, EvaluationQueue(empty_valkey)
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_slot_tends_its_server_and_takes_it_along_when_it_ends(
    slot: tuple[subprocess.Popen[bytes], EvaluationQueue], tmp_path: Path, how: signal.Signals
) -> None:
    process, queue = slot
    queue.enqueue(waiting("ab12" * 8, "first", "normal", 0))
    until((tmp_path / "first").exists)
    assert (tmp_path / "first").read_text() == "cold"
    servers = until(lambda: _serving(process.pid), what="the fork server")
    last = "long" if how is signal.SIGKILL else "short"
    for part in ("second", last):
        queue.enqueue(waiting("ab12" * 8, part, "normal", 0))
        until((tmp_path / part).exists)
    assert (tmp_path / last).read_text() == "warm"
    until(lambda: queue.leases() or last == "short")
    if how is signal.SIGKILL:
        (lease,) = queue.leases().values()
        found = mark(lease.job_id, lease.token)
        assert processes_of(found)
    process.send_signal(how)
    until(lambda: not any(map(psutil.pid_exists, servers)), what="the end of the fork server")
    if how is signal.SIGKILL:
        until(lambda: not processes_of(found), what="the end of the part's processes")


def _serving(slot: int) -> list[int]:
    """The slot's fork server and its keeper, once a run would be served."""
    found = []
    for child in psutil.Process(slot).children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            words = child.cmdline()
            if "worker.runner.fork_server" in words:
                found.append(child.pid)
                name = words[words.index("worker.runner.fork_server") + 1]
    with socket.socket(socket.AF_UNIX) as visitor, suppress(OSError):
        if found:
            visitor.connect(f"\0{name}")
            return found
    return []


def _sleepers(before: set[int]) -> list[int]:
    """Strays that were started since; only those of this test, since others run on this machine too."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        if process.pid not in before and process.info["cmdline"] == ["sleep", "300"]:
            left.append(process.pid)
    return left


def test_a_secret_of_one_run_is_nowhere_in_the_next(ready: Box) -> None:
    secret = "tops3cret" + uuid.uuid4().hex
    # It must not contain what it looks for.
    search = (
        f"wanted = bytes(reversed({secret.encode()[::-1]!r}))\nimport re\nfound = 0\n"
        "memory = open('/proc/self/mem', 'rb', 0)\n"
        "for line in open('/proc/self/maps'):\n"
        "    start, end, rights = re.match('([0-9a-f]+)-([0-9a-f]+) (r?)', line).groups()\n"
        "    if rights and '[v' not in line:\n"
        "        memory.seek(int(start, 16))\n"
        "        try: found += memory.read(int(end, 16) - int(start, 16)).count(wanted)\n"
        "        except OSError: pass\n"
        "tell(found=found, variable='OPENAI_API_KEY' in os.environ)"
    )
    control = search.replace("[::-1]", "")
    ready.secrets = {"OPENAI_API_KEY": secret}
    first = ready.run(control)
    ready.secrets = {}
    second = ready.run(search)
    assert first.forked and second.forked
    assert first.told[1]["variable"] and first.told[1]["found"] >= 2
    # One place is the search's own word for it.
    assert second.told[1] == {"found": 1, "variable": False}
