"""Who is calling: one sign-in for MLflow and for our tabs.

Browsers have a Flask-Login session, programs send HTTP Basic or a bearer token. MLflow asks the same code through its
``authorization_function``. The answer is remembered for the request, because checking a password costs 100 ms.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextvars import ContextVar, copy_context
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import flask_login
from flask import Flask, Response, current_app, g, redirect, request
from flask.sessions import SecureCookieSessionInterface
from werkzeug.datastructures import Authorization

from mlflow_lmms.errors import NotAllowedError, UnauthenticatedError
from mlflow_lmms.settings import Settings
from plugin_ui import mlflow_server, permissions
from plugin_ui.access_tokens import TokenClaims, read_token

AUTHORIZATION_FUNCTION = "plugin_ui.authentication:authorize"
LOGIN_PATH = "/lmms/login"
_OUR_APP = "lmms_web_app"

#: Answers of this request by the header that they came from; set anew for each request in front of both apps.
_remembered: ContextVar[dict[str, SignedInUser | None] | None] = ContextVar("lmms_remembered_users", default=None)


class SignedInUser(flask_login.UserMixin):  # type: ignore[misc]
    """A user of MLflow as Flask-Login wants it. The id ends with the password, and with it every old session."""

    def __init__(self, user: mlflow_server.User) -> None:
        self.username = user.username
        self.is_admin = user.is_admin
        self.fingerprint = user.fingerprint

    def get_id(self) -> str:
        """What the session cookie holds."""
        return f"{self.fingerprint}:{self.username}"


class _SessionCookie(SecureCookieSessionInterface):
    def get_cookie_secure(self, app: Flask) -> bool:
        """Mark the cookie Secure behind TLS, also where a proxy ends it (uvicorn reads X-Forwarded-Proto)."""
        return request.is_secure


def install(app: Flask, settings: Settings, secret: str) -> None:
    """Give our app sessions and make MLflow's app ask `authorize`."""
    app.secret_key = secret
    app.session_interface = _SessionCookie()
    app.config.update(
        # Cookies know no ports: two servers on one machine must not sign each other's users out.
        SESSION_COOKIE_NAME=f"lmms_session_{hashlib.sha256(secret.encode()).hexdigest()[:8]}",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=timedelta(hours=settings.session_hours),
    )
    logins = flask_login.LoginManager(app, add_context_processor=False)
    logins.user_loader(_user_of_session)
    logins.request_loader(lambda request: _user_of_header(request.headers.get("Authorization", "")))
    permissions.turn_on(app)
    mlflow_server.flask_app().extensions[_OUR_APP] = app


def gate() -> None:
    """Before every request to our app: signed-in users only, and only to views that declare their permission."""
    if request.endpoint is None:
        return  # no such page: the error page for it says nothing about anything
    needed = permissions.declared(current_app.view_functions[request.endpoint])
    if needed is None:
        raise NotAllowedError(f"the page {request.endpoint} declares no permission, so nobody may open it")
    if needed is not permissions.ANYONE:
        permissions.caller()


def authorize() -> Authorization | Response:
    """MLflow's ``authorization_function``: the caller, or what a browser or a program has to do first."""
    user = _caller_of_mlflow_request()
    if user is not None:
        return Authorization("lmms", {"username": user.username})
    if wants_page():
        return redirect(login_url())  # type: ignore[return-value]
    answer = mlflow_server.challenge()
    if "Sec-Fetch-Mode" in request.headers:
        # A script of a page whose session has ended: a challenge would open the browser's own password window.
        del answer.headers["WWW-Authenticate"]
    return answer


def login_url() -> str:
    """Where a browser signs in and is sent back to the page that it wanted."""
    wanted = request.full_path.rstrip("?") if request.method == "GET" else request.path
    prefix = mlflow_server.static_prefix()
    return f"{prefix}{LOGIN_PATH}?next={quote(request.script_root + wanted, safe='')}"


def wants_page() -> bool:
    """Whether the request is a browser's navigation, which a page answers better than JSON."""
    navigates = request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
    return request.method == "GET" and navigates and "text/html" in request.headers.get("Accept", "")


def give_up_on_caller() -> None:
    """Answer the rest of this request as to nobody: who is calling could not be found out."""
    if "_login_user" not in g:
        g._login_user = flask_login.AnonymousUserMixin()


async def remember_caller(authorization: str) -> None:
    """Start a request's memory; a password is checked now, in a thread: nothing may later block the event loop."""
    _remembered.set({})
    if authorization[:6].lower() == "basic ":
        await asyncio.to_thread(_user_of_header, authorization)


def require_session() -> SignedInUser:
    """The signed-in user, unless the request came with a bearer token (which must not make new credentials).

    Raises:
        UnauthenticatedError: nobody is signed in.
        NotAllowedError: the caller sent a token.
    """
    user = flask_login.current_user
    if not user.is_authenticated:
        raise UnauthenticatedError("sign in first, or send a password in the Authorization header")
    if request.headers.get("Authorization", "")[:7].lower() == "bearer ":
        raise NotAllowedError("a token cannot make or change credentials; sign in with the password")
    found: SignedInUser = user._get_current_object()
    return found


def _caller_of_mlflow_request() -> SignedInUser | None:
    memory = _memory()
    key = f"{request.headers.get('Authorization', '')}\n{request.headers.get('Cookie', '')}"
    if key not in memory:
        # In a context of its own: leaving our request must not end what MLflow has bound to its own (the workspace).
        memory[key] = copy_context().run(_ask_our_app, current_app.extensions[_OUR_APP], request.environ)
    return memory[key]


def _ask_our_app(app: Flask, environ: dict[str, Any]) -> SignedInUser | None:
    with app.request_context(environ):
        user = flask_login.current_user
        return user._get_current_object() if user.is_authenticated else None


def _user_of_session(session_id: str) -> SignedInUser | None:
    fingerprint, _, username = session_id.partition(":")
    return _current(TokenClaims(username, fingerprint))


def _user_of_header(header: str) -> SignedInUser | None:
    memory = _memory()
    if header not in memory:
        memory[header] = _check_header(header)
    return memory[header]


def _check_header(header: str) -> SignedInUser | None:
    sent = Authorization.from_header(header)
    if sent is None:
        return None
    if sent.type == "basic":
        user = mlflow_server.check_password(sent.username or "", sent.password or "")
        return None if user is None else SignedInUser(user)
    if sent.type == "bearer":
        claims = read_token(mlflow_server.secret_key() or "", sent.token or "")
        return None if claims is None else _current(claims)
    return None


def _current(claims: TokenClaims) -> SignedInUser | None:
    user = mlflow_server.find_user(claims.username)
    return SignedInUser(user) if user is not None and user.fingerprint == claims.fingerprint else None


def _memory() -> dict[str, SignedInUser | None]:
    memory = _remembered.get()
    return {} if memory is None else memory
