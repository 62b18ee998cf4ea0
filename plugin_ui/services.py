"""The services of the app that handles the current request."""

from __future__ import annotations

from typing import cast

from flask import current_app

from mlflow_lmms.services import Services


def services() -> Services:
    """What the views call, put there by `plugin_ui.app`."""
    return cast(Services, current_app.extensions["lmms"])
