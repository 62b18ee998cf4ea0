"""The MLflow that the import commands write to: a server, or the store that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import requests

from mlflow_lmms.cli.registry_client import registry_client
from mlflow_lmms.http import HttpApi
from mlflow_lmms.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TRACKING_URI = "MLFLOW_TRACKING_URI"
#: What MLflow's client would print among our own lines: a bar for each file, an address for each run.
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_TIMEOUT_S = (5.0, 30.0)


def tracking_client() -> tuple[MlflowClient, str]:
    """A client, and the address that it speaks to.

    Raises:
        UnavailableError: the server does not answer.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    store = os.environ.get(_TRACKING_URI, "")
    address = store if store and not store.startswith("http") else Settings.load().server_url
    if address.startswith("http"):
        # MLflow's own client repeats a call for minutes before it says that nobody is there.
        try:
            requests.get(f"{address.rstrip('/')}/health", timeout=_TIMEOUT_S)
        except requests.RequestException as error:
            raise HttpApi(address).unavailable(error) from None
    return registry_client(address), address
