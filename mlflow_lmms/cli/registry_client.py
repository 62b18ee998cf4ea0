"""MLflow's own client for the commands that need it, without the lines that it logs for programmers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def registry_client(server_url: str) -> MlflowClient:
    """A client of the Model Registry at this server; importing MLflow takes seconds, so it is done here."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=server_url)
