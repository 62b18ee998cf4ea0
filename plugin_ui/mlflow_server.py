"""The only door to MLflow's server: every name of ``mlflow.server*`` and every private name is used here alone.

It knows MLflow and nothing of evaluations. ``CHECKED_ON`` names the MLflow releases that the contract test ran on.
"""

# MLflow's internals carry few type hints.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.server as server
from flask import Flask, Response
from mlflow.entities import ViewType
from mlflow.environment_variables import _MLFLOW_SGI_NAME, MLFLOW_ENABLE_WORKSPACES, MLFLOW_FLASK_SERVER_SECRET_KEY
from mlflow.exceptions import MlflowException
from mlflow.server import auth, fastapi_app, fastapi_security, handlers, security_utils, workspace_helpers
from mlflow.server.auth.config import DEFAULT_AUTHORIZATION_FUNCTION
from mlflow.server.auth.permissions import (
    MANAGE,
    RESOURCE_TYPE_EXPERIMENT,
    RESOURCE_TYPE_REGISTERED_MODEL,
    RESOURCE_TYPE_REGISTERED_MODEL_VERSION,
    RESOURCE_TYPE_RUN,
)
from mlflow.server.auth.requirements import ACTION_NOT_DENIED, Requirement
from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR, REGISTRY_STORE_URI_ENV_VAR
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.utils.uri import validate_path_is_safe
from mlflow.utils.workspace_context import clear_server_request_workspace, set_server_request_workspace
from starlette.types import ASGIApp

from mlflow_lmms.errors import ConfigurationError, InvalidRequestError, NotFoundError

CHECKED_ON = ("3.17.2",)
WORKSPACE_HEADER = workspace_helpers.WORKSPACE_HEADER_NAME
UVICORN = "uvicorn"


# The server process


def server_kind() -> str | None:
    """``uvicorn``, ``gunicorn`` or ``waitress``, as ``mlflow server`` tells it; None without ``mlflow server``."""
    kind: str | None = _MLFLOW_SGI_NAME.get()
    return kind


def backend_store_uri() -> str:
    """URI of MLflow's own database, as this server process was started with."""
    uri = os.environ.get(BACKEND_STORE_URI_ENV_VAR)
    if not uri:
        raise ConfigurationError(
            "expected an MLflow server with a backend store, found none; start it with "
            "`mlflow server --app-name lmms --backend-store-uri sqlite:///mlflow.db`"
        )
    return uri


def registry_store_uri() -> str:
    """URI of the model registry's database; MLflow's own unless the server was given another."""
    return os.environ.get(REGISTRY_STORE_URI_ENV_VAR) or backend_store_uri()


def static_prefix() -> str:
    """What ``--static-prefix`` put before every path, without the slash at its end; mostly empty."""
    return os.environ.get(handlers.STATIC_PREFIX_ENV_VAR, "").rstrip("/")


def flask_app() -> Flask:
    """MLflow's Flask app, one per process."""
    app: Flask = server.app
    return app


def asgi_app() -> ASGIApp:
    """MLflow's complete ASGI app, without authentication."""
    app: ASGIApp = fastapi_app.create_fastapi_app(flask_app())
    return app


def asgi_app_with_auth(authorization_function: str) -> ASGIApp:
    """MLflow's complete ASGI app behind its basic-auth, users migrated and the first administrator made.

    Args:
        authorization_function: ``module:function`` that tells MLflow who is calling.
    """
    configured = auth.auth_config.authorization_function
    if configured not in (DEFAULT_AUTHORIZATION_FUNCTION, authorization_function):
        raise ConfigurationError(
            f"expected no authorization_function in MLflow's auth file, found {configured!r}; "
            "remove the line: this server brings its own, which takes session, password and token"
        )
    auth.auth_config = auth.auth_config._replace(authorization_function=authorization_function)
    app: ASGIApp = auth.create_app(flask_app())
    return app


def wsgi_as_asgi(app: Flask) -> ASGIApp:
    """A Flask app as ASGI, in the same thread pool as MLflow's own pages."""
    bridged: ASGIApp = fastapi_app._EfficientWSGIMiddleware(app)
    return bridged


def secret_key() -> str | None:
    """The secret that signs sessions, when the server was started with one."""
    key: str | None = MLFLOW_FLASK_SERVER_SECRET_KEY.get()
    return key or None


def set_secret_key(key: str) -> None:
    """Give this process (not its parent) the secret that signs sessions."""
    MLFLOW_FLASK_SERVER_SECRET_KEY.set(key)


def http_status(error: MlflowException) -> int:
    """The HTTP status that MLflow would answer with."""
    return int(error.get_http_status_code())


# Hosts, origins and workspaces


def host_allowed(host: str) -> bool:
    """Whether MLflow's own security middleware would answer to this Host header."""
    allowed = fastapi_security.get_allowed_hosts()
    return "*" in allowed or bool(security_utils.is_allowed_host_header(allowed, host))


def origin_allowed(origin: str) -> bool:
    """Whether the administrator listed this origin as one that may call MLflow from another site."""
    return origin in fastapi_security.get_allowed_origins()


def enter_workspace(path: str, wanted: str | None) -> None:
    """Bind the workspace named by the request's header to the current context, as MLflow does."""
    workspace = workspace_helpers.resolve_workspace_for_request_if_enabled(path, wanted)
    set_server_request_workspace(workspace.name if workspace else None)


def leave_workspace() -> None:
    """Undo `enter_workspace`."""
    clear_server_request_workspace()


def follow_workspaces(app: Flask) -> None:
    """Bind the workspace of each request to our Flask app, as MLflow does for its own."""
    app.before_request(workspace_helpers.workspace_before_request_handler)
    app.teardown_request(workspace_helpers.workspace_teardown_request_handler)


# Users and permissions (only with MLflow's auth on)


@dataclass(frozen=True)
class User:
    """One of MLflow's users; `fingerprint` changes with the password, so that old sessions and tokens end with it."""

    username: str
    is_admin: bool
    fingerprint: str


def _user(found: Any) -> User:
    digest = hashlib.sha256(found.password_hash.encode()).hexdigest()
    return User(found.username, bool(found.is_admin), digest[:16])


def find_user(username: str) -> User | None:
    """The user of this name, if there is one."""
    return _user(auth.store.get_user(username)) if auth.store.has_user(username) else None


def check_password(username: str, password: str) -> User | None:
    """The user when the password is right. Takes some 100 ms of CPU: never call it on the event loop."""
    found = auth._authenticate_cached(username, password)
    return None if found is None else _user(found)


def change_password(username: str, password: str) -> User:
    """Set a new password; MLflow's own rules for passwords apply (`InvalidRequestError` names the broken one)."""
    try:
        auth.store.update_user(username, password=password)
    except MlflowException as error:
        raise InvalidRequestError(error.message) from None
    auth._invalidate_user_auth_cache(username)
    return _user(auth.store.get_user(username))


def challenge() -> Response:
    """MLflow's own answer to a program without credentials: 401 and what to send."""
    response: Response = auth.make_basic_auth_response()
    return response


def may(username: str, action: str, experiment_id: str) -> bool:
    """Whether MLflow lets this user ``read``, ``update`` or ``manage`` the runs of an experiment."""
    if auth.store.get_user(username).is_admin:
        return True
    experiment = (RESOURCE_TYPE_EXPERIMENT, experiment_id)
    requirements = [
        Requirement(RESOURCE_TYPE_EXPERIMENT, experiment_id, "read"),
        Requirement(RESOURCE_TYPE_RUN, "*", action, fallback_if_no_grant=(experiment,)),
    ]
    return bool(auth.authorize(username, experiment, requirements))


def may_create_experiment(username: str) -> bool:
    """Whether MLflow lets this user make a new experiment."""
    if auth.store.get_user(username).is_admin:
        return True
    return bool(
        auth._can_create_in_workspace(username) and auth._create_not_denied(username, RESOURCE_TYPE_EXPERIMENT)
    )


def may_read_model(username: str, name: str) -> bool:
    """Whether MLflow lets this user read a registered model."""
    return bool(auth.store.get_user(username).is_admin or auth._graphql_can_read_model(name, username))


def may_update_model(username: str, name: str) -> bool:
    """Whether MLflow lets this user set tags of the versions of a registered model."""
    if auth.store.get_user(username).is_admin:
        return True
    model = (RESOURCE_TYPE_REGISTERED_MODEL, name)
    versions = Requirement(RESOURCE_TYPE_REGISTERED_MODEL_VERSION, "*", "update", fallback_if_no_grant=(model,))
    return bool(auth.authorize(username, model, [versions]))


def readable_experiments(username: str | None) -> frozenset[str] | None:
    """Ids of the experiments whose runs this user may read; None for all of them (nobody signed in: auth is off)."""
    if username is None or auth.store.get_user(username).is_admin:
        return frozenset(_experiment_ids()) if MLFLOW_ENABLE_WORKSPACES.get() else None
    ids = _experiment_ids()
    runs_too = [Requirement(RESOURCE_TYPE_RUN, "*", ACTION_NOT_DENIED)]
    readable = auth._role_based_read_predicate(username, RESOURCE_TYPE_EXPERIMENT, also_require=runs_too)
    return frozenset(id_ for id_ in ids if readable(id_))


def _experiment_ids() -> list[str]:
    store, ids, page = handlers._get_tracking_store(), [], None
    while True:
        found = store.search_experiments(view_type=ViewType.ALL, max_results=5000, page_token=page)
        ids += [experiment.experiment_id for experiment in found]
        page = found.token
        if not page:
            return ids


def grant_manage(username: str, experiment_id: str) -> None:
    """Make the user the manager of an experiment that was created in their name, as MLflow does."""
    auth.store.grant_user_permission(username, RESOURCE_TYPE_EXPERIMENT, experiment_id, MANAGE.name)


def experiment_of_run(run_id: str) -> str:
    """The experiment that a run belongs to.

    Raises:
        NotFoundError: no such run.
    """
    return str(_run(run_id).info.experiment_id)


def _run(run_id: str) -> Any:
    try:
        return handlers._get_tracking_store().get_run(run_id)
    except MlflowException as error:
        if http_status(error) in (400, 404):
            raise NotFoundError(f"no run has the id {run_id!r}") from None
        raise


# Artifacts of runs, read and written by the server itself


@dataclass(frozen=True)
class Artifact:
    """Where one artifact of a run lies."""

    repository: ArtifactRepository
    path: str

    def local_path(self) -> Path | None:
        """The file itself when the store is a folder of this machine, else None.

        Raises:
            NotFoundError: there is no such artifact.
        """
        try:
            found = self.repository.get_local_path(self.path)
        except MlflowException as error:
            raise NotFoundError(error.message) from None
        return Path(found) if found else None

    def download(self, folder: Path) -> Path:
        """Copy the artifact into `folder`.

        Raises:
            NotFoundError: there is no such artifact.
        """
        try:
            return Path(self.repository.download_artifacts(self.path, dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            raise NotFoundError(f"the artifact {self.path!r} cannot be read: {error}") from error

    def upload(self, file: Path) -> None:
        """Put a local file into the folder that this artifact is."""
        self.repository.log_artifact(str(file), self.path)


def artifact(run_id: str, path: str) -> Artifact:
    """Find the store of one artifact, also when clients reach it only through this server (``mlflow-artifacts:``).

    Raises:
        InvalidRequestError: a path that leaves the run's folder.
        NotFoundError: no such run.
    """
    try:
        safe = validate_path_is_safe(path)
    except MlflowException:
        raise InvalidRequestError(f"expected a path inside the run's artifacts, got {path!r}") from None
    root = _run(run_id).info.artifact_uri
    if not handlers._is_servable_proxied_run_artifact_root(root):
        return Artifact(handlers._get_artifact_repository_for_uri(root), safe)
    inside: Any = handlers._get_proxied_run_artifact_destination_path(proxied_artifact_root=root, relative_path=safe)
    inside = handlers._get_workspace_scoped_repo_path_if_enabled(inside)
    return Artifact(handlers._get_artifact_repo_mlflow_artifacts(), inside)
