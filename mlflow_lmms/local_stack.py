"""Everything on one machine: queue server, MLflow server with our app, and a worker, in one data folder.

Loopback only. It composes the programs and guards the folder; keeping them running is the supervisor's work.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

import requests

from mlflow_lmms.errors import ConfigurationError, ConflictError, StorageFullError, UnavailableError
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.redis_server import EmbeddedRedis
from mlflow_lmms.server_command import ADMIN_NAME, ADMIN_PASSWORD, migrate, server_command
from mlflow_lmms.settings import Settings
from mlflow_lmms.supervisor import KeptProgram, Program, Supervisor

HOST = "127.0.0.1"
_LEAST_FREE = 100_000_000
_EARLIER_RUN_S = 30.0
_WORKER_GRACE_S = 15.0


class LocalStack:
    """A context manager: inside it, the stack runs. The programs end with it, and with this process."""

    def __init__(
        self,
        settings: Settings,
        port: int,
        say: Callable[[str], None],
        *,
        environ: Mapping[str, str] | None = None,
        reload: bool = False,
    ) -> None:
        """Prepare.

        Args:
            port: 0 chooses a free one.
            say: gets a line for people whenever something happens.
            reload: for developers: the server loads changed Python files and templates again.
        """
        self.folder = settings.data_folder.absolute()
        self._given = settings
        self._port = port
        self._say = say
        self._environ = dict(os.environ if environ is None else environ)
        self._open = ExitStack()
        self.embedded: EmbeddedRedis | None = None
        self.url = ""
        self._reload = reload
        self._sign_in: dict[str, str] = {}
        self.settings = settings

    def __enter__(self) -> Self:
        """Start everything and return when everything answers.

        Raises:
            ConflictError: the folder is in use.
            StorageFullError: its disk is full.
            ConfigurationError: port taken, folder not writable, no queue server.
            UnavailableError: a part did not start; with the end of its log.
        """
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, the worker first, the queue server last."""
        self._open.close()

    def _start(self) -> None:
        mine, programs = self._take_folder()
        self._port = _free_port(self._port)
        self.url = f"http://{HOST}:{self._port}"
        mine.truncate(0)
        mine.write(self.url)
        mine.flush()
        self.settings = self._given.model_copy(
            update={"data_folder": self.folder, "server_url": self.url, "redis_url": self._queue_url()}
        )
        supervisor = Supervisor(self._programs(programs.fileno()), self._say)
        self._open.callback(supervisor.stop)
        supervisor.start()

    def _take_folder(self) -> tuple[IO[str], IO[str]]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds users, models and samples
            free = shutil.disk_usage(self.folder).free
            up = self._open.enter_context((self.folder / "up.lock").open("a+"))
            programs = self._open.enter_context((self.folder / "programs.lock").open("a+"))
        except OSError as error:
            raise ConfigurationError(f"the data folder {self.folder} cannot be written: {error}") from None
        if free < _LEAST_FREE:
            raise StorageFullError(
                f"only {free / 1e6:.0f} MB are free where the data folder {self.folder} lies, and the server needs "
                f"{_LEAST_FREE / 1e6:.0f} MB to start: make room, or choose another place with --data-folder"
            )
        if not _locked(up):
            up.seek(0)
            raise ConflictError(
                f"the data folder {self.folder} is in use by another `mlflow-lmms up` ({up.read() or 'starting'}): "
                "use that one, stop it, or choose another folder with --data-folder"
            )
        # The programs hold this one themselves: after a `kill -9` of `up` they may need some seconds to end.
        deadline = time.monotonic() + _EARLIER_RUN_S
        said = False
        while not _locked(programs):
            if not said:
                self._say("waiting for the programs of an earlier run to end")
                said = True
            if time.monotonic() > deadline:
                raise ConflictError(f"programs of an earlier run still use {self.folder}; stop them first")
            time.sleep(0.05)
        return up, programs

    def _queue_url(self) -> str:
        if self._given.redis_url is not None:
            EvaluationQueue(self._given.redis_url).ping()
            return self._given.redis_url
        self.embedded = EmbeddedRedis(self._given.model_copy(update={"data_folder": self.folder}).redis_socket.parent)
        return self.embedded.url

    def _programs(self, lock: int) -> list[Program]:
        options = ["--host", HOST, "--port", str(self._port), "--workers", "1"]
        server = server_command(self.settings, self._environ, options, reload=self._reload)
        migrate(self.settings, server.backend_store_uri)
        if ADMIN_PASSWORD in server.environ:
            self._sign_in = {
                "MLFLOW_TRACKING_USERNAME": server.environ[ADMIN_NAME],
                "MLFLOW_TRACKING_PASSWORD": server.environ[ADMIN_PASSWORD],
            }
        worker_environ = self._environ | {"PYTHONSAFEPATH": "1"} | self._variables()
        server_environ = self._environ | self._variables() | server.environ
        for name in self._sign_in:  # the server signs in nowhere
            server_environ.pop(name)
        logs = self.folder / "logs"
        worker = [sys.executable, "-P", "-m", "mlflow_lmms.cli", "worker", "--no-drain"]
        programs: list[Program] = [] if self.embedded is None else [self.embedded]
        return [
            *programs,
            KeptProgram(
                "server",
                server.command,
                logs / "server.log",
                answers=self._server_answers,
                environ=server_environ,
                pass_fds=(lock,),
            ),
            KeptProgram(
                "worker",
                worker,
                logs / "worker.log",
                answers=self._worker_answers,
                environ=worker_environ,
                grace_s=_WORKER_GRACE_S,
                pass_fds=(lock,),
            ),
        ]

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables by which a client finds this stack, and signs in to it where one has to."""
        exempt = self._without_proxy()
        found = {"MLFLOW_TRACKING_URI": self.url, "NO_PROXY": exempt, "no_proxy": exempt}
        return found | self._sign_in

    def _without_proxy(self) -> str:
        return ",".join(filter(None, [self._environ.get("NO_PROXY", ""), HOST, "localhost"]))

    def _variables(self) -> dict[str, str]:
        return self.client_environment | {
            "MLFLOW_LMMS_DATA_FOLDER": str(self.folder),
            "MLFLOW_LMMS_SERVER_URL": self.url,
            "MLFLOW_LMMS_REDIS_URL": self.settings.redis_address,
            "MLFLOW_LMMS_TASK_FOLDERS": ",".join(str(folder.absolute()) for folder in self.settings.task_folders),
            "PYTHONUNBUFFERED": "1",
            # MLflow's own job runner is a dozen processes that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": self._environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        }

    def _server_answers(self) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy for the loopback interface
                answer = session.get(f"{self.url}/lmms/api/v1/health", timeout=5)
                return answer.status_code in (requests.codes.ok, requests.codes.unauthorized)
        except requests.RequestException:
            return False

    def _worker_answers(self) -> bool:
        try:
            return any(one.box == self.settings.box for one in FleetView(self.settings.redis_address).boxes())
        except UnavailableError:
            return False


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): stop the program that has it, or choose "
                f"another port with --port {port + 1}"
            ) from None
        return int(probe.getsockname()[1])


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pages(url: str) -> dict[str, str]:
    """The pages to look at first, by title."""
    return {"Leaderboard": f"{url}/lmms/leaderboard", "Evaluations": f"{url}/lmms/evaluations", "MLflow": url}
