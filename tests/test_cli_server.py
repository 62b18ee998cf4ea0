"""`mlflow-lmms server`: what it starts, what it keeps secret, and that our tables are there before MLflow is."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy

from mlflow_lmms.cli.main import run
from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.server_command import (
    ADMIN_PASSWORD,
    AUTH_CONFIG,
    SESSION_KEY,
    migrate,
    private_text,
    server_command,
)
from mlflow_lmms.settings import Settings

Captured = pytest.CaptureFixture[str]


def settings(folder: Path, **values: object) -> Settings:
    return Settings(data_folder=folder / "data", **values)


def value_of(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_without_options_everything_lies_in_the_data_folder(tmp_path: Path) -> None:
    prepared = server_command(settings(tmp_path), {})
    assert value_of(prepared.command, "--app-name") == "lmms"
    assert value_of(prepared.command, "--backend-store-uri") == f"sqlite:///{tmp_path}/data/mlflow.db"
    assert value_of(prepared.command, "--artifacts-destination") == f"{tmp_path}/data/artifacts"


def test_options_and_mlflow_s_own_variables_win(tmp_path: Path) -> None:
    given = server_command(settings(tmp_path), {}, ["--backend-store-uri", "sqlite:////elsewhere.db"])
    assert given.backend_store_uri == "sqlite:////elsewhere.db"
    assert given.command.count("--backend-store-uri") == 1
    joined = server_command(settings(tmp_path), {}, ["--backend-store-uri=sqlite:////elsewhere.db"])
    assert joined.backend_store_uri == "sqlite:////elsewhere.db"
    environ = {"MLFLOW_BACKEND_STORE_URI": "sqlite:////named.db", "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket"}
    named = server_command(settings(tmp_path), environ)
    assert named.backend_store_uri == "sqlite:////named.db"
    assert "--artifacts-destination" not in named.command


def test_nothing_in_the_current_folder_comes_onto_the_path(tmp_path: Path) -> None:
    prepared = server_command(settings(tmp_path), {})
    words = shlex.split(value_of(prepared.command, "--uvicorn-opts"))
    assert list(Path(value_of(words, "--app-dir")).iterdir()) == []
    assert prepared.environ["PYTHONSAFEPATH"] == "1"
    assert "-P" in prepared.command


def test_without_sign_in_there_are_no_secrets(tmp_path: Path) -> None:
    prepared = server_command(settings(tmp_path), {})
    assert not {SESSION_KEY, ADMIN_PASSWORD, AUTH_CONFIG} & prepared.environ.keys()


def test_secrets_are_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    first = server_command(settings(tmp_path, auth="basic"), {}).environ
    again = server_command(settings(tmp_path, auth="basic"), {}).environ
    assert first == again
    assert len(first[SESSION_KEY]) >= 32
    assert len(first[ADMIN_PASSWORD]) >= 12
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert f"sqlite:///{tmp_path}/data/users.db" in Path(first[AUTH_CONFIG]).read_text()


def test_given_secrets_are_used_and_not_stored(tmp_path: Path) -> None:
    given = {SESSION_KEY: "given-key", ADMIN_PASSWORD: "given-password", AUTH_CONFIG: "/some/auth.ini"}
    prepared = server_command(settings(tmp_path, auth="basic"), given)
    assert prepared.environ[ADMIN_PASSWORD] == "given-password"
    assert AUTH_CONFIG not in prepared.environ
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    private_text(path, "text")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        private_text(path, "other")


def test_dry_run_shows_no_secret_and_writes_nothing(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_LMMS_DATA_FOLDER", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_LMMS_AUTH", "basic")
    assert run(["server", "--dry-run", "--port", "5077"]) == 0
    shown = capsys.readouterr().out
    assert f"{ADMIN_PASSWORD}='***'" in shown or f"{ADMIN_PASSWORD}=***" in shown
    assert shown.rstrip().endswith("--port 5077")
    assert list(tmp_path.iterdir()) == []


def test_the_command_migrates_then_becomes_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_LMMS_DATA_FOLDER", str(tmp_path / "data"))
    started: list[tuple[list[str], str]] = []

    def become(_file: str, words: list[str], environ: dict[str, str]) -> None:
        started.append((words, environ["PYTHONSAFEPATH"]))

    monkeypatch.setattr(os, "execvpe", become)
    assert run(["server", "--host", "127.0.0.1"]) == 0
    ((words, safe_path),) = started
    assert words[words.index("-m") :][:3] == ["-m", "mlflow", "server"]
    assert words[-2:] == ["--host", "127.0.0.1"]
    assert safe_path == "1"
    with sqlite3.connect(tmp_path / "data" / "mlflow-lmms.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    assert "lmms_evaluations" in tables


def test_our_tables_go_into_mlflow_s_postgresql(tmp_path: Path, empty_postgres_url: str) -> None:
    migrate(settings(tmp_path), empty_postgres_url)
    migrate(settings(tmp_path), empty_postgres_url)
    engine = sqlalchemy.create_engine(empty_postgres_url)
    assert "lmms_evaluations" in sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        server_command(settings(tmp_path), {})
