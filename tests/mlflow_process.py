"""A real ``mlflow server --app-name lmms`` process for tests, with MLflow's users or without."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

ADMIN = ("admin", "an-admin-password")
ALICE = ("alice", "a-long-password-of-alice")
BOB = ("bob", "a-long-password-of-bob")
_START_S = 120.0


@dataclass
class MlflowProcess:
    """One server; `start` returns when it answers."""

    folder: Path
    redis_url: str
    auth: bool = False
    prefix: str = ""
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    template: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server, static prefix included, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def backend_store_uri(self) -> str:
        """MLflow's own database."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def start(self) -> MlflowProcess:
        """Start and wait until it answers."""
        self.launch()
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._answers():
                return self
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"the MLflow server did not start:\n{self.log()}")

    def launch(self) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.template is not None and not (self.folder / "mlflow.db").exists():
            shutil.copy(self.template, self.folder / "mlflow.db")  # making the tables takes seconds
        self.port = self.port or free_port()
        command = [
            sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "lmms", "--host", self.host,
            "--port", str(self.port), "--backend-store-uri", self.backend_store_uri,
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        if "--workers" not in self.options:
            command += ["--workers", "1"]
        if self.prefix:
            command += ["--static-prefix", self.prefix]
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options], cwd=self.folder, env=self._environ(), stdout=log, stderr=log
            )
        return self.process

    def stop(self) -> None:
        """End it as a service manager would, at the latest by force."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self) -> str:
        """Everything that the server said so far."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def wait_for_log(self, text: str, times: int = 1) -> str:
        """The log once it has `text` so many times."""
        deadline = time.monotonic() + _START_S
        while self.log().count(text) < times:
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} does not stand {times} times in the server's log:\n{self.log()}")
            time.sleep(0.05)
        return self.log()

    def add_user(self, user: tuple[str, str]) -> None:
        """Create an MLflow user, as the administrator."""
        body = {"username": user[0], "password": user[1]}
        requests.post(f"{self.url}/api/2.0/mlflow/users/create", json=body, auth=ADMIN, timeout=30).raise_for_status()

    def permit(self, experiment_id: str, user: tuple[str, str], permission: str) -> None:
        """Give a user a permission on an experiment, as the administrator."""
        body = {
            "username": user[0],
            "resource_type": "experiment",
            "resource_id": experiment_id,
            "permission": permission,
        }
        path = f"{self.url}/api/3.0/mlflow/users/permissions/grant"
        requests.post(path, json=body, auth=ADMIN, timeout=30).raise_for_status()

    def new_run(self, experiment: str) -> tuple[str, str]:
        """Create an experiment and a run in it; returns both ids."""
        experiment_id = self._create("experiments/create", {"name": experiment})["experiment_id"]
        return experiment_id, self._create("runs/create", {"experiment_id": experiment_id})["run"]["info"]["run_id"]

    def _create(self, what: str, body: dict[str, str]) -> Any:
        answer = requests.post(f"{self.url}/api/2.0/mlflow/{what}", json=body, auth=self._admin, timeout=30)
        answer.raise_for_status()
        return answer.json()

    @property
    def _admin(self) -> tuple[str, str] | None:
        return ADMIN if self.auth else None

    @property
    def _log_file(self) -> Path:
        return self.folder / "server.log"

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def _environ(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "_MLFLOW"))}
        environ |= {
            "MLFLOW_LMMS_DATA_FOLDER": str(self.folder / "data"),
            "MLFLOW_LMMS_REDIS_URL": self.redis_url,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONUNBUFFERED": "1",
        }
        if self.auth:
            ini = self.folder / "basic_auth.ini"
            users = f"sqlite:///{self.folder / 'users.db'}"
            ini.write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {users}\n")
            environ |= {
                "MLFLOW_LMMS_AUTH": "basic",
                "MLFLOW_AUTH_CONFIG_PATH": str(ini),
                "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
                "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            }
        return {**environ, **self.environ}


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def open_server(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, valkey: str
) -> Iterator[MlflowProcess]:
    """A server where nobody has to sign in."""
    server = MlflowProcess(tmp_path_factory.mktemp("open-server"), valkey, template=mlflow_template).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def auth_server(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, valkey: str
) -> Iterator[MlflowProcess]:
    """A server with MLflow's users: `ADMIN`, and `ALICE` and `BOB` who may read what nobody forbids them."""
    folder = tmp_path_factory.mktemp("auth-server")
    server = MlflowProcess(folder, valkey, auth=True, template=mlflow_template).start()
    server.add_user(ALICE)
    server.add_user(BOB)
    yield server
    server.stop()
