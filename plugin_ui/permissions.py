"""Who is calling, and what MLflow's own permissions let the caller do here.

Every view under ``/lmms`` declares the permission that it needs with `requires`; a view without a declaration is
refused (`plugin_ui.authentication.gate`). Deciding is MLflow's (`plugin_ui.mlflow_server`); this module only asks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import flask_login
from flask import Flask, current_app, g

from mlflow_lmms.errors import NotAllowedError, NotFoundError, UnauthenticatedError
from plugin_ui import mlflow_server

View = TypeVar("View", bound=Callable[..., Any])

_DECLARATION = "lmms_permission"
_AUTH_ON = "LMMS_AUTH_ON"


class Permission(StrEnum):
    """What a view needs. READ, EDIT and MANAGE are of the experiment that the request is about, ADMIN of MLflow."""

    ANYONE = "anyone"
    SIGNED_IN = "signed in"
    READ = "read"
    EDIT = "edit"
    MANAGE = "manage"
    ADMIN = "admin"


ANYONE, SIGNED_IN, READ, EDIT, MANAGE, ADMIN = Permission

_ACTIONS = {READ: "read", EDIT: "update", MANAGE: "manage"}


@dataclass(frozen=True)
class Caller:
    """The user behind the current request; without authentication nobody has a name and everybody may everything."""

    username: str | None
    is_admin: bool


def caller() -> Caller:
    """Who is calling.

    Raises:
        UnauthenticatedError: nobody is signed in.
    """
    if not is_on():
        return Caller(username=None, is_admin=True)
    user = flask_login.current_user
    if not user.is_authenticated:
        raise UnauthenticatedError("sign in first, or send a password or a token in the Authorization header")
    return Caller(username=user.username, is_admin=user.is_admin)


def turn_on(app: Flask) -> None:
    """From now on the app asks who is calling."""
    app.config[_AUTH_ON] = True


def is_on() -> bool:
    """Whether the current app asks who is calling."""
    return bool(current_app.config.get(_AUTH_ON, False))


def readable_experiments() -> frozenset[str] | None:
    """Ids of the experiments that the caller may read; None for all of them. Lists and boards filter by it."""
    g.lmms_checked = True
    if "lmms_readable" not in g:
        g.lmms_readable = mlflow_server.readable_experiments(caller().username)
    readable: frozenset[str] | None = g.lmms_readable
    return readable


def allowed(permission: Permission, experiment_id: str, username: str | None) -> bool:
    """Whether this user (None: authentication is off) has the permission on the experiment."""
    return username is None or mlflow_server.may(username, _ACTIONS[permission], experiment_id)


def require(permission: Permission, experiment_id: str) -> None:
    """Go on only when the caller has the permission on the experiment.

    Raises:
        NotFoundError: the caller may not even read it, so it is not said whether it exists.
        NotAllowedError: the caller may read it, but not this.
    """
    g.lmms_checked = True
    username = caller().username
    if allowed(permission, experiment_id, username):
        return
    if permission is READ or not allowed(READ, experiment_id, username):
        raise NotFoundError(f"experiment {experiment_id} does not exist, or you may not read it")
    raise NotAllowedError(
        f"user {username} needs the permission {permission.upper()} on experiment {experiment_id}; "
        "whoever manages the experiment can grant it in MLflow"
    )


def require_run(permission: Permission, run_id: str) -> str:
    """Go on only when the caller has the permission on the run's experiment; returns the experiment's id.

    Raises:
        NotFoundError: no such run, or the caller may not read it.
        NotAllowedError: the caller may read it, but not this.
    """
    g.lmms_checked = True
    unknown = NotFoundError(f"evaluation {run_id} does not exist, or you may not read it")
    try:
        experiment_id = mlflow_server.experiment_of_run(run_id)
    except NotFoundError:
        raise unknown from None
    if not allowed(READ, experiment_id, caller().username):
        raise unknown
    if permission is not READ:
        require(permission, experiment_id)
    return experiment_id


def require_admin() -> None:
    """Go on only for an administrator; without authentication everybody is one.

    Raises:
        NotAllowedError: the caller is none.
    """
    who = caller()
    if not who.is_admin:
        raise NotAllowedError(f"this changes the fleet for everybody, and user {who.username} is no administrator")


def require_new_experiment(name: str) -> None:
    """Go on only when the caller may make a new experiment.

    Raises:
        NotAllowedError: MLflow does not let this user make one.
    """
    g.lmms_checked = True
    username = caller().username
    if username is not None and not mlflow_server.may_create_experiment(username):
        raise NotAllowedError(f"experiment {name!r} does not exist and user {username} may not create experiments")


def require_model(name: str) -> None:
    """Go on only when the caller may read the registered model.

    Raises:
        NotFoundError: the caller may not read it, so it is not said whether it exists.
    """
    username = caller().username
    if username is not None and not mlflow_server.may_read_model(username, name):
        raise NotFoundError(f"registered model {name!r} does not exist, or you may not read it")


def require_model_update(name: str) -> None:
    """Go on only when the caller may write onto versions of the registered model.

    Raises:
        NotFoundError: the caller may not even read it, so it is not said whether it exists.
        NotAllowedError: the caller may read it, but not this.
    """
    require_model(name)
    username = caller().username
    if username is not None and not mlflow_server.may_update_model(username, name):
        raise NotAllowedError(
            f"user {username} may not write onto registered model {name!r}; ask for it without recording the verdict "
            "(--no-record), or let whoever manages the model grant EDIT in MLflow"
        )


def own_new_experiment(experiment_id: str) -> None:
    """Make the caller the manager of an experiment that the server created on their behalf."""
    username = caller().username
    if username is not None:
        mlflow_server.grant_manage(username, experiment_id)


def requires(
    permission: Permission, *, run: str | None = None, experiment: str | None = None
) -> Callable[[View], View]:
    """Declare what a view needs.

    With `run` or `experiment` (names of URL arguments) the check is made before the view runs. Otherwise a view that
    needs READ, EDIT or MANAGE has to call `require`, `require_run` or `readable_experiments` itself; one that
    answers without having done so is a bug and ends as an error, not as a leak.
    """

    def declare(view: View) -> View:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if permission is ADMIN:
                require_admin()
            if run is not None:
                require_run(permission, kwargs[run])
            if experiment is not None:
                require(permission, kwargs[experiment])
            answer = view(*args, **kwargs)
            if permission in _ACTIONS and not g.get("lmms_checked", False):
                raise RuntimeError(f"{view.__name__} declares {permission} but has checked no experiment")
            return answer

        setattr(checked, _DECLARATION, permission)
        return checked  # type: ignore[return-value]

    return declare


def declared(view: Callable[..., Any]) -> Permission | None:
    """The permission that a view declares, if it does."""
    permission: Permission | None = getattr(view, _DECLARATION, None)
    return permission
