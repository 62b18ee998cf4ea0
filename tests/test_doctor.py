"""The doctor sees each part when it is broken, in turn, and says how to mend it; a sound set-up has no problem."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import redis

from mlflow_lmms import doctor, doctor_services
from mlflow_lmms.cli.main import run
from mlflow_lmms.doctor import Check, Finding
from mlflow_lmms.evaluation_queue import box_key
from mlflow_lmms.server_command import migrate, private_text
from mlflow_lmms.settings import Settings

Captured = pytest.CaptureFixture[str]
SOUND = {"version": version("mlflow-lmms")}


def one(check: Check, settings: Settings, part: str) -> Finding:
    return next(finding for finding in check(settings) if finding.part.startswith(part))


def broken(check: Check, settings: Settings, part: str, status: str = "problem") -> Finding:
    finding = one(check, settings, part)
    assert finding.status == status
    assert finding.remedy
    return finding


@pytest.fixture
def sound(tmp_path: Path, empty_valkey: str, server: Callable[[int, object], str]) -> Settings:
    """A set-up where everything is well."""
    announce(empty_valkey, "box1", version("mlflow-lmms"))
    return Settings(data_folder=tmp_path / "data", redis_url=empty_valkey, server_url=server(200, SOUND))


def announce(url: str, box: str, release: str) -> None:
    fields = {"box": box, "cpu_slots": 1, "gpu_slots": 0, "gpus": "[]", "version": release, "protocol": 1}
    fields |= {"environments": "[]", "started": 0.0}
    with redis.Redis.from_url(url) as connection:
        connection.hset(box_key(box), mapping=fields)


@pytest.fixture
def server() -> Iterator[Callable[[int, object], str]]:
    """A function that serves one JSON answer for every path and returns the address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int, answer: object) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for running in servers:
        running.shutdown()
        running.server_close()


def test_a_sound_set_up_has_no_problem(sound: Settings) -> None:
    found = list(doctor_services.examine(sound))
    assert [finding for finding in found if finding.status == "problem"] == []
    parts = {finding.part for finding in found}
    assert {"python", "packages", "data folder", "disk", "secrets", "tasks", "lmms-eval", "gpus"} <= parts
    assert {"server", "queue", "database", "worker box1"} <= parts


def test_an_unsupported_python(monkeypatch: pytest.MonkeyPatch, sound: Settings) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    assert "3.9" in broken(doctor.check_python, sound, "python").message


def test_a_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch, sound: Settings) -> None:
    wanted = ["no-such-package>=1", "click>=99", "pytest>=1; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    message = broken(doctor.check_packages, sound, "packages").message
    assert "no-such-package is missing" in message
    assert f"click is {version('click')}, wanted >=99" in message
    assert "pytest" not in message


def test_a_data_folder_that_cannot_be_written(sound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    assert "Permission denied" in broken(doctor.check_data_folder, sound, "data folder").message


@pytest.mark.parametrize(("free", "status"), [(0.5, "problem"), (3, "warning")])
def test_a_full_disk(free: float, status: str, sound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=int(free * 1024**3))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert f"{free:.1f} GB" in broken(doctor.check_data_folder, sound, "disk", status).message


def test_secrets_that_others_can_read(sound: Settings) -> None:
    private_text(sound.data_folder / "server_secret", "x")
    assert one(doctor.check_secrets, sound, "secrets").status == "ok"
    (sound.data_folder / "server_secret").chmod(0o644)
    finding = broken(doctor.check_secrets, sound, "secrets")
    assert finding.remedy == f"chmod 600 {sound.data_folder}/server_secret"


def test_a_folder_of_secrets_that_is_not_there(sound: Settings, tmp_path: Path) -> None:
    missing = sound.model_copy(update={"secrets_folder": tmp_path / "nowhere"})
    assert "nowhere" in broken(doctor.check_secrets, missing, "secrets").message


def test_task_folders_that_are_missing_or_empty(sound: Settings, tmp_path: Path) -> None:
    missing = sound.model_copy(update={"task_folders": (tmp_path / "nowhere",)})
    assert "nowhere" in broken(doctor.check_task_folders, missing, "tasks").message
    (tmp_path / "empty").mkdir()
    empty = sound.model_copy(update={"task_folders": (tmp_path / "empty",)})
    assert "no task" in broken(doctor.check_task_folders, empty, "tasks").message


def test_lmms_eval_that_is_not_installed(sound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert "mlflow-lmms[local]" in broken(doctor.check_lmms_eval, sound, "lmms-eval", "warning").remedy


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ("echo 'ImportError: no torch' >&2; exit 1", "problem", "ImportError: no torch"),
        ("echo 0.5.0", "warning", "0.5.0"),
        (None, "problem", "cannot be run"),
    ],
)
def test_an_evaluation_environment_that_is_broken(
    script: str | None, status: str, message: str, sound: Settings, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    settings = sound.model_copy(update={"environments": {"other": str(python)}})
    assert message in broken(doctor.check_lmms_eval, settings, "lmms-eval (other)", status).message


def test_a_driver_that_does_not_answer(sound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert one(doctor.check_gpus, sound, "gpus").status == "ok"
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    assert "driver" in broken(doctor.check_gpus, sound, "gpus").message.lower()
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    broken(doctor.check_gpus, sound, "gpus", "warning")


def test_a_server_that_is_away(sound: Settings, free_port: Callable[[], int]) -> None:
    away = sound.model_copy(update={"server_url": f"http://127.0.0.1:{free_port()}"})
    assert "mlflow-lmms up" in broken(doctor_services.check_server, away, "server").remedy
    assert one(doctor_services.check_server, away, "port").status == "ok"


def test_a_port_that_another_program_has(sound: Settings, server: Callable[[int, object], str]) -> None:
    taken = sound.model_copy(update={"server_url": server(503, {})})
    assert "--port" in broken(doctor_services.check_server, taken, "port").remedy


def test_a_server_without_our_plugin(sound: Settings, server: Callable[[int, object], str]) -> None:
    plain = sound.model_copy(update={"server_url": server(404, {})})
    assert "--app-name lmms" in broken(doctor_services.check_server, plain, "server").remedy


def test_a_server_that_wants_a_sign_in(sound: Settings, server: Callable[[int, object], str]) -> None:
    answer = {"error": {"class": "UnauthenticatedError", "message": "sign in"}}
    closed = sound.model_copy(update={"server_url": server(401, answer)})
    assert "MLFLOW_TRACKING_USERNAME" in broken(doctor_services.check_server, closed, "server").remedy


def test_a_server_of_another_version(sound: Settings, server: Callable[[int, object], str]) -> None:
    old = sound.model_copy(update={"server_url": server(200, {"version": "0.0.1"})})
    assert "0.0.1" in broken(doctor_services.check_server, old, "server").message


def test_a_queue_that_is_away(sound: Settings, free_port: Callable[[], int]) -> None:
    away = sound.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}"})
    assert "MLFLOW_LMMS_REDIS_URL" in broken(doctor_services.check_queue, away, "queue").remedy
    assert "queue" in broken(doctor_services.check_workers, away, "workers").remedy


def test_no_queue_program(sound: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    embedded = sound.model_copy(update={"redis_url": None})
    assert one(doctor_services.check_queue, embedded, "queue program").status == "ok"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    broken(doctor_services.check_queue, embedded, "queue program")


def test_a_database_that_is_not_migrated(sound: Settings, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ours.db"
    new = sound.model_copy(update={"database_url": url})
    assert "at revision none" in broken(doctor_services.check_database, new, "database").message
    migrate(new, "sqlite:///unused.db")
    assert one(doctor_services.check_database, new, "database").status == "ok"


def test_a_database_that_cannot_be_opened(sound: Settings, tmp_path: Path) -> None:
    (tmp_path / "ours.db").write_bytes(b"this is no database" * 100)
    damaged = sound.model_copy(update={"database_url": f"sqlite:///{tmp_path}/ours.db"})
    broken(doctor_services.check_database, damaged, "database")


def test_no_worker_or_one_of_another_version(sound: Settings) -> None:
    assert sound.redis_url is not None
    announce(sound.redis_url, "box2", "0.0.1")
    assert "0.0.1" in broken(doctor_services.check_workers, sound, "worker box2", "warning").message
    with redis.Redis.from_url(sound.redis_url) as connection:
        connection.flushall()
    assert "mlflow-lmms worker" in broken(doctor_services.check_workers, sound, "workers").remedy


def environ(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_LMMS_DATA_FOLDER", str(settings.data_folder))
    monkeypatch.setenv("MLFLOW_LMMS_REDIS_URL", str(settings.redis_url))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.server_url)


def test_the_command_says_it_to_people_and_programs(
    sound: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Captured, free_port: Callable[[], int]
) -> None:
    environ(sound, monkeypatch)
    assert run(["doctor", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert run(["doctor"]) == 0
    assert "all is well" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert run(["doctor"]) == 1
    assert "1 to mend: server" in capsys.readouterr().out


def test_a_wrong_setting_is_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("MLFLOW_LMMS_CPU_SLOTS", "many")
    assert run(["doctor", "--format", "json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["part"] == "settings"
    assert "cpu_slots" in finding["message"]
