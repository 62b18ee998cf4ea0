"""Sign in, sign out, change the password, make a token: MLflow hides its own doors for these behind ours."""

from __future__ import annotations

from urllib.parse import urlsplit

import flask_login
from flask import Blueprint, jsonify, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from mlflow_lmms.errors import InvalidRequestError
from plugin_ui import mlflow_server
from plugin_ui.access_tokens import LONGEST_DAYS, TokenClaims, make_token
from plugin_ui.api.parsing import json_object
from plugin_ui.authentication import SignedInUser, require_session
from plugin_ui.permissions import ANYONE, SIGNED_IN, requires
from plugin_ui.rate_limits import LOGIN_LIMIT, limiter

_DEFAULT_DAYS = 30

blueprint = Blueprint("lmms_sign_in", __name__)


@blueprint.get("/lmms/login")
@requires(ANYONE)
def login() -> ResponseReturnValue:
    """The form; whoever is signed in already goes on."""
    if flask_login.current_user.is_authenticated:
        return redirect(_next_page())
    return render_template("lmms/login.html", problem=None, username="", next=request.args.get("next", ""))


@blueprint.post("/lmms/login")
@limiter.limit(LOGIN_LIMIT)
@requires(ANYONE)
def log_in() -> ResponseReturnValue:
    """Check the password and open the session."""
    username, password = request.form.get("username", ""), request.form.get("password", "")
    user = mlflow_server.check_password(username, password)
    if user is None:
        problem = "No user has this name and password."
        page = render_template(
            "lmms/login.html", problem=problem, username=username, next=request.form.get("next", "")
        )
        return page, 401
    _open_session(user)
    return redirect(_next_page(), 303)


@blueprint.post("/lmms/logout")
@requires(SIGNED_IN)
def logout() -> ResponseReturnValue:
    """End the session."""
    flask_login.logout_user()
    session.clear()
    return redirect(url_for("lmms_sign_in.login"), 303)


@blueprint.get("/lmms/password")
@requires(SIGNED_IN)
def password() -> ResponseReturnValue:
    """The account page: change the password, sign out."""
    return _password_page()


@blueprint.post("/lmms/password")
@limiter.limit(LOGIN_LIMIT)
@requires(SIGNED_IN)
def change_password() -> ResponseReturnValue:
    """Change the caller's own password; it ends every other session and token of theirs."""
    user, form = require_session(), request.form
    current, new = form.get("current", ""), form.get("new", "")
    if mlflow_server.check_password(user.username, current) is None:
        return _password_page(problem="The current password is not right."), 400
    if new != form.get("repeat", ""):
        return _password_page(problem="The two new passwords differ."), 400
    if new == current:
        return _password_page(problem="The new password is the current one."), 400
    try:
        changed = mlflow_server.change_password(user.username, new)
    except InvalidRequestError as error:
        return _password_page(problem=error.message), 400
    _open_session(changed)
    return _password_page(done=True)


@blueprint.post("/lmms/api/v1/tokens")
@limiter.limit(LOGIN_LIMIT)
@requires(SIGNED_IN)
def create_token() -> ResponseReturnValue:
    """Make a bearer token of the caller's own, for ``MLFLOW_TRACKING_TOKEN``."""
    user = require_session()
    days = json_object().get("days", _DEFAULT_DAYS) if request.content_length else _DEFAULT_DAYS
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= LONGEST_DAYS:
        raise InvalidRequestError(f"days: expected a whole number from 1 to {LONGEST_DAYS}, got {days!r}")
    claims = TokenClaims(username=user.username, fingerprint=user.fingerprint)
    token, expires = make_token(mlflow_server.secret_key() or "", claims, days)
    return jsonify({"token": token, "expires_at": expires}), 201


def _open_session(user: mlflow_server.User) -> None:
    session.clear()
    session.permanent = True
    flask_login.login_user(SignedInUser(user))


def _password_page(problem: str | None = None, done: bool = False) -> str:
    username = flask_login.current_user.username
    return render_template("lmms/password.html", problem=problem, done=done, username=username)


def _next_page() -> str:
    wanted = request.form.get("next") or request.args.get("next") or ""
    return wanted if is_own_page(wanted) else f"{mlflow_server.static_prefix()}/"


def is_own_page(target: str) -> bool:
    """Whether a redirect to `target` stays here: an absolute path without anything that a browser reads as a host."""
    if not target.startswith("/") or target.startswith("//") or "\\" in target:
        return False
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in target):
        return False
    parts = urlsplit(target)
    return not parts.scheme and not parts.netloc
