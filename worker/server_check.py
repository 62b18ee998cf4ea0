"""Asks the server at the start whether this box can work for it, so that a mismatch is told at once and once."""

from __future__ import annotations

import logging
from importlib.metadata import version

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.http import HttpApi
from mlflow_lmms.protocol import agreed

logger = logging.getLogger(__name__)


def check_server(server_url: str) -> int | None:
    """The protocol that box and server speak with each other; None while the server is away, which is no error.

    Raises:
        ConfigurationError: they have no protocol in common; with the command that mends it.
        UnauthenticatedError, NotAllowedError: the server does not take this box's sign-in.
    """
    try:
        answer = HttpApi(server_url).call("GET", "/health")
    except UnavailableError as error:
        logger.warning("the server is not asked for its version: %s", error)
        return None
    own = version("mlflow-lmms")
    return agreed(int(answer["protocol"]), str(answer.get("version") or own), own)
