"""How many calls one caller may make of each view, counted in each server process by itself."""

from __future__ import annotations

import flask_login
from flask import Flask, current_app, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from mlflow_lmms.settings import Settings
from plugin_ui import permissions

#: For the views that check a password.
LOGIN_LIMIT = "20 per minute"
_LIMIT = "LMMS_RATE_LIMIT"


def _caller_key() -> str:
    # GPU boxes may share one account, so the address is part of the key.
    user = flask_login.current_user if permissions.is_on() else None
    name = user.username if user is not None and user.is_authenticated else ""
    return f"{name}@{get_remote_address()}"


limiter = Limiter(
    _caller_key,
    default_limits=[lambda: str(current_app.config[_LIMIT])],
    storage_uri="memory://",
    headers_enabled=True,
)


@limiter.request_filter
def _is_static_file() -> bool:
    return (request.endpoint or "").endswith("static")


def install(app: Flask, settings: Settings) -> None:
    """Limit every view of the app; a view may set a limit of its own."""
    app.config[_LIMIT] = settings.rate_limit
    limiter.init_app(app)
