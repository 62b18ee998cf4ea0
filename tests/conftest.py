"""Fixtures that several test files share: a queue server, a PostgreSQL cluster, free ports; and the rule on skips."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from fleet_boxes import open_claims

from mlflow_lmms.redis_server import EmbeddedRedis

pytest_plugins = ("core_services", "evaluation_world", "mlflow_process", "fault_world", "fault_report", "worker_box")

REQUIRE_ALL = "LMMS_REQUIRE_ALL"
_PR_SET_PDEATHSIG = 1


def _required() -> bool:
    return os.environ.get(REQUIRE_ALL, "") not in ("", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one where everything is required."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _required():
        report.outcome = "failed"
        report.longrepr = f"{REQUIRE_ALL} is set and this test was skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Likewise for a test file that skips itself as a whole."""
    report = yield
    if report.skipped and _required():
        report.outcome = "failed"
        report.longrepr = f"{REQUIRE_ALL} is set and this file was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a throw-away embedded queue server, shared by the session."""
    with tempfile.TemporaryDirectory(prefix="lmms-valkey-") as folder:
        server = EmbeddedRedis(Path(folder))
        server.start()
        yield server.url
        server.stop()


@pytest.fixture(scope="session")
def other_valkey() -> Iterator[str]:
    """Another one: the session's MLflow servers plan on `valkey` all the time."""
    with tempfile.TemporaryDirectory(prefix="lmms-valkey-") as folder:
        server = EmbeddedRedis(Path(folder))
        server.start()
        yield server.url
        server.stop()


@pytest.fixture
def empty_valkey(other_valkey: str) -> Iterator[str]:
    """A queue server with nothing in it, on which no server of the session plans."""
    with redis.Redis.from_url(other_valkey) as connection:
        connection.flushall()
        open_claims(connection)
        yield other_valkey
        connection.flushall()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that returns a TCP port of the loopback interface that is free now."""

    def choose() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return choose


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[str]:
    """URL prefix of a throw-away PostgreSQL cluster: put a database name in for ``{}``."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb and postgres on PATH or below /usr/lib/postgresql")
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="lmms-pg-"))
    server = None
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        initdb: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "lmms",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
        settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                stdout=log, stderr=log, user=user, cwd=folder, preexec_fn=_die_with_parent,
            )  # fmt: skip
        _wait_for_postgres(server, folder)
        yield f"postgresql+psycopg://lmms@/{{}}?host={folder}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # "fast": does not wait for open connections
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(postgres_cluster: str) -> str:
    """URL of one database that the whole session shares."""
    return _new_database(postgres_cluster)


@pytest.fixture
def empty_postgres_url(postgres_cluster: str) -> str:
    """URL of a new, empty database."""
    return _new_database(postgres_cluster)


def _postgres_programs() -> Path | None:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else []
    folders += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def _unprivileged_user() -> str | None:
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait_for_postgres(server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="lmms", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.05)


def _new_database(cluster: str) -> str:
    name = f"lmms_{uuid.uuid4().hex[:12]}"
    admin = cluster.format("postgres").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return cluster.format(name)
