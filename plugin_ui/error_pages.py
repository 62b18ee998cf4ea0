"""The one place that turns an error into a page or into JSON. Views raise; they never format.

Under ``/lmms/api`` the answer is ``{"error": {"message", "class", "details"?}}``, elsewhere a page; a browser
without a session is sent to the sign-in page. What went wrong inside is logged and never shown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, jsonify, redirect, render_template, request
from flask.typing import ResponseReturnValue
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from mlflow_lmms.errors import LmmsError, UnauthenticatedError
from plugin_ui import authentication, mlflow_server

API_PATH = "/lmms/api/"
_INTERNAL = "The server failed on this request. Its log says why; nothing about it is shown here."

_log = logging.getLogger(__name__)


def install(app: Flask) -> None:
    """Handle every error that a view of the app lets out."""
    app.register_error_handler(LmmsError, _of_ours)
    app.register_error_handler(MlflowException, _of_mlflow)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(OperationalError, _of_database)


def _of_ours(error: LmmsError) -> ResponseReturnValue:
    if isinstance(error, UnauthenticatedError):
        return _sign_in(error)
    if error.http_status >= 500:
        _log.warning("%s %s: %s: %s", request.method, request.path, type(error).__name__, error.message)
    return _answer(error.http_status, type(error).__name__, error.message, error.details)


def _of_mlflow(error: MlflowException) -> ResponseReturnValue:
    status = mlflow_server.http_status(error)
    if status >= 500:
        _log.error("MLflow failed on %s %s", request.method, request.path, exc_info=error)
        return _answer(status, "MlflowException", _INTERNAL)
    return _answer(status, "MlflowException", error.message)


def _of_database(error: OperationalError) -> ResponseReturnValue:
    _log.error("a database failed on %s %s", request.method, request.path, exc_info=error)
    authentication.give_up_on_caller()
    return _answer(503, "UnavailableError", "A database of the server does not answer; try again in a moment.")


def _of_http(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None:
        return error.response
    status = error.code or 500
    if status >= 500:
        authentication.give_up_on_caller()
        # Flask has logged the traceback of what it turned into this error.
        return _answer(status, "InternalError", _INTERNAL)
    answer = _answer(status, type(error).__name__, _http_message(error))
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            answer.headers[name] = value
    return answer


def _http_message(error: HTTPException) -> str:
    if error.code == 404:
        return f"There is no page {request.path} on this server."
    if error.code == 429:
        return f"Too many requests: {error.description} are allowed. Wait a little and try again."
    return error.description or error.name


def _sign_in(error: UnauthenticatedError) -> ResponseReturnValue:
    if authentication.wants_page() and not request.path.startswith(API_PATH):
        return redirect(authentication.login_url())
    answer = _answer(error.http_status, type(error).__name__, error.message)
    if "Sec-Fetch-Mode" not in request.headers:
        answer.headers["WWW-Authenticate"] = 'Basic realm="mlflow"'
    return answer


def _answer(status: int, kind: str, message: str, details: Mapping[str, Any] | None = None) -> Response:
    if request.path.startswith(API_PATH):
        told = {"message": message, "class": kind} | ({"details": dict(details)} if details else {})
        answer = jsonify({"error": told})
    else:
        heading = HTTP_STATUS_CODES.get(status, "Error")
        page = render_template("lmms/error.html", status=status, heading=heading, message=message)
        answer = Response(page, mimetype="text/html")
    answer.status_code = status
    return answer
