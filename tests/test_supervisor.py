"""The supervisor with small real programs: order, readiness, restart, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.supervisor import KeptProgram, Supervisor

# Writes its pid and that of a child in a session of its own, which ignores SIGTERM, and waits.
TREE = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
child = subprocess.Popen(
    [sys.executable, "-c", deaf],
    start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
(folder / "child").write_text(str(child.pid))
(folder / "new").write_text(str(os.getpid()))
os.replace(folder / "new", folder / "pid")
time.sleep(600)
"""
UP = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[2])
from test_supervisor import tree
from mlflow_lmms.supervisor import Supervisor
folder = pathlib.Path(sys.argv[1])
Supervisor([tree(folder)], print).start()
print("ready", flush=True)
time.sleep(600)
"""


def tree(folder: Path) -> KeptProgram:
    command = [sys.executable, "-c", TREE, str(folder)]
    return KeptProgram("tree", command, folder / "log", answers=(folder / "pid").exists, grace_s=5)


def python(name: str, code: str, folder: Path, answers: Callable[[], bool] = lambda: True) -> KeptProgram:
    return KeptProgram(name, [sys.executable, "-c", code], folder / f"{name}.log", answers=answers)


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def pids(folder: Path) -> list[int]:
    return [int((folder / name).read_text()) for name in ("pid", "child")]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_stop_leaves_nothing_even_of_another_session_that_ignores_sigterm(tmp_path: Path) -> None:
    supervisor = Supervisor([tree(tmp_path)], print)
    supervisor.start()
    started = pids(tmp_path)
    assert all(alive(pid) for pid in started)
    supervisor.stop()
    assert not any(alive(pid) for pid in started)
    supervisor.stop()


def test_killing_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    up = subprocess.Popen([sys.executable, "-c", UP, str(tmp_path), here], stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    with up.stdout:
        assert up.stdout.readline() == "ready\n"
    started = pids(tmp_path)
    up.send_signal(signal.SIGKILL)
    up.wait()
    assert until(lambda: not any(alive(pid) for pid in started))


def test_a_program_that_ends_takes_its_children_along_and_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor([tree(tmp_path)], said.append, first_pause_s=0.05)
    supervisor.start()
    first = pids(tmp_path)
    os.kill(first[0], signal.SIGKILL)
    assert until(lambda: pids(tmp_path)[0] != first[0])
    assert not alive(first[1])
    assert "tree ended with code 137" in said[0]
    second = pids(tmp_path)
    supervisor.stop()
    assert not any(alive(pid) for pid in second)


def test_the_pause_grows_and_stopping_does_not_wait_for_it(tmp_path: Path) -> None:
    said: list[str] = []
    program = python("brief", "pass", tmp_path)
    supervisor = Supervisor([program], said.append, first_pause_s=0.05)
    supervisor.start()
    assert until(lambda: len(said) >= 4)
    supervisor.stop()
    pauses = [float(line.partition(" again in ")[2].split()[0]) for line in said[:4]]
    assert pauses == sorted(pauses)
    assert pauses[3] > pauses[0]


def test_programs_start_in_order_and_stop_in_the_opposite_one(tmp_path: Path) -> None:
    code = "import pathlib, signal, sys, time\n" + "\n".join(
        [
            f"log = pathlib.Path({str(tmp_path / 'order')!r})",
            "def stop(*_):\n  log.open('a').write(f'-{NAME} '); sys.exit()",
            "signal.signal(signal.SIGTERM, stop)",
            "log.with_name(NAME).touch()",
            "time.sleep(600)",
        ]
    )
    programs = [python(n, f"NAME={n!r}\n{code}", tmp_path, (tmp_path / n).exists) for n in ("a", "b")]
    supervisor = Supervisor(programs, print)
    supervisor.start()
    supervisor.stop()
    assert (tmp_path / "order").read_text() == "-b -a "


def test_a_program_that_ends_while_starting_stops_the_others_and_shows_its_log(tmp_path: Path) -> None:
    broken = python("broken", "import sys; print('the reason', flush=True); sys.exit(4)", tmp_path, lambda: False)
    supervisor = Supervisor([tree(tmp_path), broken], print)
    with pytest.raises(UnavailableError, match=r"(?s)broken ended with code 4 .*the reason"):
        supervisor.start()
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_a_program_that_never_answers_is_given_up(tmp_path: Path) -> None:
    silent = python("silent", "import time; time.sleep(600)", tmp_path, lambda: False)
    with pytest.raises(UnavailableError, match="silent does not answer after 0 s"):
        Supervisor([silent], print).start(timeout_s=0.2)
    assert silent.ended() is not None


def test_a_program_that_cannot_be_found_is_named(tmp_path: Path) -> None:
    missing = KeptProgram("missing", ["/no/such/program"], tmp_path / "log", answers=lambda: False)
    with pytest.raises(UnavailableError, match="cannot start /no/such/program"):
        Supervisor([missing], print).start()


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    supervisor = Supervisor([python("quiet", "import time; time.sleep(600)", tmp_path)], print)
    supervisor.start()
    supervisor.stop()
    assert threading.active_count() == before


def test_what_a_killed_keeper_leaves_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """The program's child keeps a port, as a server's worker process does; the keeper is killed with -9."""
    code = (
        "import subprocess, sys, pathlib, time\n"
        "hold = 'import socket, time; s = socket.create_server((\"127.0.0.1\", 0)); time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', hold])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    program = python("server", code, tmp_path)
    program.start()
    assert until((tmp_path / "child").exists)
    assert until(lambda: (tmp_path / "child").read_text() != "")
    orphan = int((tmp_path / "child").read_text())
    assert program._process is not None
    os.kill(program._process.pid, signal.SIGKILL)
    program.wait()
    assert Path(f"/proc/{orphan}").exists()
    program.start()
    gone = until(lambda: not Path(f"/proc/{orphan}").exists() or _is_zombie(orphan))
    program.stop()
    assert gone


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
