"""What the server refuses to start with, said once and then over; and what it makes for itself when it starts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import requests
from mlflow_process import ADMIN, MlflowProcess

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.settings import Settings
from plugin_ui.startup import bound_address, check_address, check_server_kind, ensure_secret


def refused(server: MlflowProcess) -> str:
    """The server's log after it has ended by itself."""
    process = server.launch()
    try:
        process.wait(90)
    finally:
        server.stop()
    return server.log()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_open_address_needs_sign_in(tmp_path: Path, workers: str) -> None:
    log = refused(MlflowProcess(tmp_path, "redis://127.0.0.1:1", host="0.0.0.0", options=["--workers", workers]))
    assert "--host 0.0.0.0 can be reached from other machines" in log
    assert "MLFLOW_LMMS_AUTH=basic" in log
    assert log.count("the server does not start") <= int(workers), "the supervisor must not start it again and again"
    assert "Traceback" not in log


def test_gunicorn_is_refused_with_the_command_that_works(tmp_path: Path) -> None:
    log = refused(MlflowProcess(tmp_path, "redis://127.0.0.1:1", options=["--gunicorn-opts", "--timeout 60"]))
    assert "got --gunicorn-opts" in log
    assert "`mlflow server --app-name lmms --host 127.0.0.1`" in log


def test_users_without_an_administrator_are_refused_once(tmp_path: Path) -> None:
    server = MlflowProcess(tmp_path, "redis://127.0.0.1:1", auth=True, options=["--workers", "2"])
    server.environ = {"MLFLOW_AUTH_ADMIN_PASSWORD": ""}
    log = refused(server)
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in log
    assert log.count("the server does not start") <= 2


def test_several_processes_start_together_on_an_empty_folder(tmp_path: Path, valkey: str) -> None:
    server = MlflowProcess(tmp_path, valkey, auth=True, options=["--workers", "3"]).start()
    try:
        session = requests.Session()
        form = {"username": ADMIN[0], "password": ADMIN[1]}
        session.post(f"{server.url}/lmms/login", data=form, timeout=60).raise_for_status()
        for _ in range(12):  # whichever process answers has the same secret
            with session.get(f"{server.url}/lmms/evaluations", headers={"Connection": "close"}, timeout=60) as page:
                assert page.status_code == 200
        log = server.wait_for_log("Application startup complete", times=3)
        assert "Traceback" not in log
    finally:
        server.stop()
    secret = tmp_path / "data" / "server_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text() not in log


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["uvicorn", "--host", "0.0.0.0", "--port", "5000"], "0.0.0.0"),
        (["uvicorn", "--host=10.1.2.3"], "10.1.2.3"),
        (["uvicorn", "--host", "127.0.0.1", "--host", "0.0.0.0"], "0.0.0.0"),
        (["uvicorn"], "127.0.0.1"),
        (["uvicorn", "--host"], ""),
    ],
)
def test_the_address_is_read_from_the_command_line(arguments: list[str], address: str) -> None:
    assert bound_address(arguments) == address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8", "[::1]"])
def test_loopback_needs_no_sign_in(host: str) -> None:
    check_address(Settings.load({}), ["uvicorn", "--host", host])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "my-box", "", "localhost.evil.example"])
def test_anything_else_does(host: str) -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_LMMS_AUTH=basic"):
        check_address(Settings.load({}), ["uvicorn", "--host", host])
    check_address(Settings.load({}, auth="basic"), ["uvicorn", "--host", host])


@pytest.mark.parametrize("kind", ["gunicorn", "waitress", None])
def test_only_uvicorn_will_do(kind: str | None) -> None:
    with pytest.raises(ConfigurationError, match="uvicorn"):
        check_server_kind(kind)
    check_server_kind("uvicorn")


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_FLASK_SERVER_SECRET_KEY", raising=False)
    settings = Settings.load({}, data_folder=tmp_path)
    secret = tmp_path / "server_secret"
    secret.write_text("x" * 40)
    secret.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        ensure_secret(settings)
    secret.chmod(0o600)
    assert ensure_secret(settings) == "x" * 40
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "given")
    assert ensure_secret(settings) == "given"
