"""A throw-away PostgreSQL server on a socket of its own, for benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "512MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "synchronous_commit": "off",
}


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, None where there is no PostgreSQL."""
    found = shutil.which("postgres")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start a server with its data below `folder`; gives the URL of an empty database, and stops it."""
    where = programs()
    if where is None:
        raise SystemExit("PostgreSQL's initdb and postgres are neither on PATH nor below /usr/lib/postgresql")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder.mkdir(parents=True)
    shutil.chown(folder, user)
    data = folder / "data"
    initdb = [str(where / "initdb"), "-D", str(data), "-U", "lmms", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
    settings = _SETTINGS | {"unix_socket_directories": str(folder)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        command = [str(where / "postgres"), "-D", str(data), *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, user=user, cwd=folder)
    try:
        _wait(folder)
        with psycopg.connect(host=str(folder), user="lmms", dbname="postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE history")
        yield f"postgresql+psycopg://lmms@/history?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # "fast": does not wait for open connections
        server.wait(60)


def _wait(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="lmms", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
