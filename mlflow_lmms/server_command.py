"""The `mlflow server` command line and environment with our app in it, and the secrets that it needs.

Shared by `mlflow-lmms server` and `up`. It starts nothing and does not import MLflow.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.settings import Settings

SESSION_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"
ADMIN_NAME = "MLFLOW_AUTH_ADMIN_USERNAME"
ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
AUTH_CONFIG = "MLFLOW_AUTH_CONFIG_PATH"
_BACKEND = ("--backend-store-uri", "MLFLOW_BACKEND_STORE_URI")
_ARTIFACTS = ("--artifacts-destination", "MLFLOW_ARTIFACTS_DESTINATION")
_ARTIFACT_ROOT = ("--default-artifact-root", "MLFLOW_DEFAULT_ARTIFACT_ROOT")


class ServerCommand(NamedTuple):
    """What to start: an argument list, the variables to add to the environment, and MLflow's database."""

    command: list[str]
    environ: dict[str, str]
    backend_store_uri: str


def server_command(
    settings: Settings,
    environ: Mapping[str, str],
    options: Sequence[str] = (),
    *,
    dry: bool = False,
    reload: bool = False,
) -> ServerCommand:
    """Put the command together; `options` are `mlflow server`'s own and win over our defaults.

    Makes the folders and secrets that it names, unless `dry`; with `reload` changed code is loaded again.
    """
    folder = settings.data_folder.absolute()
    backend = _given(options, environ, *_BACKEND)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "lmms"]
    if backend is None:
        backend = f"sqlite:///{folder / 'mlflow.db'}"
        command += ["--backend-store-uri", backend]
    if _given(options, environ, *_ARTIFACTS) is None and _given(options, environ, *_ARTIFACT_ROOT) is None:
        command += ["--artifacts-destination", str(folder / "artifacts")]
    if not any(option.startswith(("--uvicorn-opts", "--gunicorn-opts", "--waitress-opts")) for option in options):
        # uvicorn puts this folder first on the path, by default the current one with whatever lies in it.
        words = ["--app-dir", str(folder / "empty"), *(_reload_options() if reload else [])]
        command += ["--uvicorn-opts", shlex.join(words)]
    variables = {"PYTHONSAFEPATH": "1", "MLFLOW_LMMS_DATA_FOLDER": str(folder)}
    if reload:
        variables["FLASK_DEBUG"] = "1"  # Flask looks at templates again on every request
    if not dry:
        _make_folder(folder / "empty")
    if settings.auth == "basic":
        variables |= _sign_in(folder, environ, backend, _unwritten if dry else private_text)
    return ServerCommand([*command, *options], variables, backend)


def migrate(settings: Settings, backend_store_uri: str) -> None:
    """Create or upgrade our tables, so that several server processes find them ready.

    Raises:
        ConfigurationError: no database of a known kind, or one of a newer version.
    """
    engine = open_database(database_url(settings.database_url, backend_store_uri))
    EvaluationStore(engine).migrate()
    engine.dispose()


def secrets_folder(data_folder: Path) -> Path:
    """Where the secrets of the server are kept (mode 700, its files 600)."""
    return data_folder.absolute() / "secrets"


def private_text(path: Path, make: str) -> str:
    """The text in the private file `path`; `make` is written first when there is no such file.

    Raises:
        ConfigurationError: the file may be read by other users.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(make)
    except FileExistsError:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigurationError(
                f"{path} holds a secret and other users may read it (mode {mode:o}): chmod 600 {path}"
            ) from None
    return path.read_text(encoding="utf-8")


def _given(options: Sequence[str], environ: Mapping[str, str], option: str, variable: str) -> str | None:
    for at, word in enumerate(options):
        if word == option and at + 1 < len(options):
            return options[at + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return environ.get(variable) or None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the data folder {folder.parent} cannot be written: {error}") from None


def _reload_options() -> list[str]:
    core = Path(__file__).parent
    folders = [folder for folder in (core, core.parent / "plugin_ui") if folder.is_dir()]
    return ["--reload", *(word for folder in folders for word in ("--reload-dir", str(folder)))]


def _unwritten(_path: Path, make: str) -> str:
    return make


def _sign_in(
    folder: Path, environ: Mapping[str, str], backend: str, kept_text: Callable[[Path, str], str]
) -> dict[str, str]:
    kept = secrets_folder(folder)
    made = {
        SESSION_KEY: environ.get(SESSION_KEY) or kept_text(folder / "server_secret", secrets.token_urlsafe(48)),
        ADMIN_NAME: environ.get(ADMIN_NAME) or "admin",
        ADMIN_PASSWORD: environ.get(ADMIN_PASSWORD) or kept_text(kept / "admin_password", secrets.token_urlsafe(18)),
    }
    if AUTH_CONFIG not in environ:
        users = f"sqlite:///{folder / 'users.db'}" if backend.startswith("sqlite") else backend
        lines = ["[mlflow]", "default_permission = READ", f"database_uri = {users.replace('%', '%%')}", ""]
        kept_text(kept / "basic_auth.ini", "\n".join(lines))
        made[AUTH_CONFIG] = str(kept / "basic_auth.ini")
    return made
