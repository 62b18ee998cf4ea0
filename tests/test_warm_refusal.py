"""When a run must not be a copy: it starts cold then, says why, and the server is replaced or given up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from warm_box import Box, until

THREAD = "threading, time; threading.Thread(target=time.sleep, args=[300], daemon=True).start()"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.warm.stop()


@pytest.fixture
def ready(box: Box) -> Box:
    box.make_ready()
    return box


def test_another_kind_of_run_starts_cold_and_is_served_when_it_comes_again(
    ready: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert not ready.run().forked
    ready.warm.tend()
    monkeypatch.delenv("HF_HOME")
    assert ready.run().forked, "one run of another kind must not cost the server"
    ready.warm.tend()
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    for _ in range(2):
        assert not ready.run().forked
        ready.warm.tend()
    until(ready.warm.serving)
    assert ready.run().forked


def test_a_server_that_is_not_ready_is_not_waited_for(box: Box) -> None:
    box.imports("import os, time\nif 'fork_server' in open('/proc/self/cmdline').read(): time.sleep(300)\n")
    assert not box.run().forked
    box.warm.tend()
    started = time.monotonic()
    end = box.run()
    assert not end.forked
    assert "started cold: the fork server is not there or not ready (Connection refused)" in end.lines
    assert time.monotonic() - started < 5


def test_a_server_that_does_not_answer_is_killed_and_replaced(ready: Box) -> None:
    server = ready.server_pids()[1]
    os.kill(server, signal.SIGSTOP)
    end = ready.run()
    assert not end.forked
    assert end.lines == ["started cold: the fork server did not answer within 5 s and was killed"]
    assert end.code == 0
    until(lambda: not psutil.pid_exists(server))
    ready.warm.tend()
    until(ready.warm.serving)
    assert ready.run().forked


def test_a_server_retires_after_so_many_runs_and_the_next_one_follows(tmp_path: Path) -> None:
    box = Box(tmp_path, {"_MOST_RUNS": 2})
    try:
        box.make_ready()  # the visit that finds it ready is the first
        assert box.run().forked
        first = box.server_pids()
        until(lambda: not any(map(psutil.pid_exists, first[1:])))
        assert not box.run().forked
        box.warm.tend()
        until(box.warm.serving)
        assert box.run().forked
    finally:
        box.warm.stop()


@pytest.mark.parametrize("limits", [{"_IDLE_S": 2.0}, {"_OLDEST_S": 2.0, "_IDLE_S": 60.0}])
def test_a_server_that_is_idle_or_old_ends_but_not_under_a_run(tmp_path: Path, limits: dict[str, float]) -> None:
    box = Box(tmp_path, limits)
    try:
        box.make_ready()
        process = box.start("tell(up=1)\ntime.sleep(300)")
        assert box.hear(process)[0]["forked"]
        server = box.warm._process
        assert server is not None
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(4)
        process.stop()
        box.end(process)
        assert server.wait(10) == 0
    finally:
        box.warm.stop()


def test_changed_packages_are_imported_afresh(ready: Box) -> None:
    assert ready.run().forked
    ready.imports("CHANGED = True")
    end = ready.run("import worker.runner.evaluation as found\ntell(changed=found.CHANGED)")
    assert not end.forked
    assert "started cold: the fork server refused: 1 imported files or package folders have changed" in end.lines[0]
    assert end.told[1] == {"changed": True}
    until(lambda: not ready.warm.serving())
    ready.warm.tend()
    until(ready.warm.serving)
    assert ready.run().forked


def test_a_variable_that_an_import_looked_for_starts_cold(box: Box) -> None:
    box.imports("import os\nFOUND = os.environ.get('OPENAI_API_KEY'), dict(os.environ)\n")
    box.make_ready()
    assert box.run().forked
    box.secrets = {"OPENAI_API_KEY": "k", "HF_TOKEN": "t"}
    end = box.run("import worker.runner.evaluation as found\ntell(found=found.FOUND[0])")
    assert end.told == [{"forked": False}, {"found": "k"}]
    assert end.lines == [
        "started cold: the fork server refused: an import has looked for a variable that only the run has "
        "(OPENAI_API_KEY)"
    ]
    box.secrets = {"HF_TOKEN": "t"}
    assert box.run().forked


def test_variables_that_imports_set_are_kept_and_a_run_s_own_are_its_own(box: Box) -> None:
    box.imports("import os\nos.environ['SET_BY_IMPORT'] = 'yes'\n")
    box.make_ready()
    end = box.run("tell(**{n: os.environ.get(n) for n in ('SET_BY_IMPORT', 'CUDA_VISIBLE_DEVICES')})")
    assert end.forked
    assert end.told[1] == {"SET_BY_IMPORT": "yes", "CUDA_VISIBLE_DEVICES": "GPU-a"}


def test_an_environment_that_cannot_be_copied_is_not_tried_again(box: Box) -> None:
    box.imports(f"import {THREAD}")
    assert not box.run().forked
    box.warm.tend()
    process = box.warm._process
    assert process is not None
    assert process.wait(20) == 3
    assert not box.run().forked
    box.warm.tend()
    assert box.warm._process is None


def test_somebody_else_s_socket_of_that_name_gets_nothing(ready: Box) -> None:
    ready.warm._name = f"lmms-test-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{ready.warm._name}")
        other.listen()
        process = ready.start("")
        connection, _ = other.accept()
        connection.close()  # before it says a word: the run must start all the same
        end = ready.end(process)
    assert not end.forked
    assert end.code == 0


UNSAFE = {
    f"import {THREAD}": "threads are running",
    "import multiprocessing; lock = multiprocessing.Lock()": "a lock that all copies would share",
    "import subprocess; child = subprocess.Popen(['sleep', '2'])": "has started a process",
    "import tempfile; made = tempfile.mkdtemp()": "a temporary file of its process's own",
    "import socket; pair = socket.socketpair()": "files or connections open",
    "import select; poll = select.epoll()": "files or connections open",
    "import ctypes, os; driver = ctypes.CDLL(os.environ['FAKE_CUDA'])": "CUDA was touched",
    "import tempfile; tempfile.TemporaryDirectory().cleanup(); void = open('/dev/null')": "None",
    "import numpy; numpy.ones((300, 300)) @ numpy.ones((300, 300))": "None",
}


@pytest.mark.parametrize(("code", "why"), UNSAFE.items())
def test_what_imports_leave_behind_is_judged(code: str, why: str, tmp_path: Path) -> None:
    driver = tmp_path / "libcuda.so.1"
    (tmp_path / "cuda.c").write_text("int cuInit(unsigned flags) { return 0; }")
    if "CUDA" in code:
        subprocess.run(["gcc", "-shared", "-o", str(driver), str(tmp_path / "cuda.c")], check=True)
    program = (
        "import sys\nfrom worker.runner.fork_safety import ImportWatch\nwatch = ImportWatch()\n"
        "with watch:\n    exec(sys.argv[1])\nprint(watch.unsafe())\n"
    )
    environ = {**os.environ, "FAKE_CUDA": str(driver), "TMPDIR": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-P", "-c", program, code], env=environ, capture_output=True, text=True, check=True
    )
    assert why in told.stdout
