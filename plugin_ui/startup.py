"""What has to hold before a server process serves: the right kind of server, a safe address, a secret.

A refusal is said once and ends the server: uvicorn's supervisor would otherwise start the process again, for ever.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.server_command import private_text
from mlflow_lmms.settings import Settings
from plugin_ui import mlflow_server
from plugin_ui.origin_guard import is_loopback

# gunicorn stops as a whole when a worker leaves with this status while it boots.
_BOOT_FAILURE = 3
_COMMAND = "mlflow server --app-name lmms --host 127.0.0.1"


def refuse(reason: str) -> NoReturn:
    """Say why this server does not start and end it, supervisor included."""
    sys.stderr.write(f"mlflow-lmms: the server does not start: {reason}\n")
    sys.stderr.flush()
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and supervisor.pid is not None:
        os.kill(supervisor.pid, signal.SIGTERM)
    raise SystemExit(_BOOT_FAILURE)


def check_server_kind(kind: str | None) -> None:
    """Only uvicorn can serve live events and MLflow in one process.

    Raises:
        ConfigurationError: it is another server.
    """
    if kind != mlflow_server.UVICORN:
        came = f"--{kind}-opts" if kind else "another server"
        raise ConfigurationError(
            f"expected MLflow's default server uvicorn, which live events need, got {came}; start it without "
            f"that option: `{_COMMAND}` (--uvicorn-opts are fine)"
        )


def check_address(settings: Settings, arguments: Sequence[str]) -> None:
    """Without authentication nobody beyond this machine may reach the server.

    Args:
        settings: for whether authentication is on.
        arguments: the server's own command line; uvicorn's processes all keep it.

    Raises:
        ConfigurationError: the address is not loopback.
    """
    address = bound_address(arguments)
    if settings.auth == "none" and not is_loopback(address):
        raise ConfigurationError(
            f"--host {address} can be reached from other machines, and nobody has to sign in; turn MLflow's users on "
            f"with MLFLOW_LMMS_AUTH=basic, or bind to this machine alone: `{_COMMAND}`"
        )


def bound_address(arguments: Sequence[str]) -> str:
    """The address that a uvicorn command line binds; a socket given as file or descriptor counts as loopback."""
    address = "127.0.0.1"
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--host":
            address = value or next(iter(arguments[index + 1 : index + 2]), "")
    return address


@contextmanager
def one_at_a_time(settings: Settings) -> Iterator[None]:
    """Let only one process of this data folder through: tables and the first user are made once."""
    settings.data_folder.mkdir(parents=True, exist_ok=True)
    with (settings.data_folder / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_secret(settings: Settings) -> str:
    """The secret that signs sessions and tokens: the one given, else one made and kept in the data folder."""
    given = mlflow_server.secret_key()
    if given:
        return given
    try:
        secret = private_text(settings.data_folder / "server_secret", secrets.token_urlsafe(48)).strip()
    except OSError as error:
        raise ConfigurationError(
            f"the server's secret cannot be kept in {settings.data_folder} ({error}); make the folder writable "
            "or set MLFLOW_FLASK_SERVER_SECRET_KEY"
        ) from None
    mlflow_server.set_secret_key(secret)
    return secret
