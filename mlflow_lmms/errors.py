"""The project's errors: one base class, each with the HTTP status and exit code it turns into.

A message says what was expected, what came, and what to do. Turning an error into a page, JSON or an exit
code happens in one place per door (``plugin_ui.error_pages``, ``mlflow_lmms.cli.main``), never here.
"""

from __future__ import annotations

from typing import Any


class LmmsError(Exception):
    """Base of every error that a user can act on; `details` are values for programs, sent beside the message."""

    http_status = 500
    exit_code = 1

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    @property
    def message(self) -> str:
        """The text for people, without the class name."""
        return str(self)


class InvalidRequestError(LmmsError, ValueError):
    """The request cannot be carried out as it was written. A ValueError, so that pydantic collects it."""

    http_status = 400
    exit_code = 2


class UnauthenticatedError(LmmsError):
    """Nobody is signed in, or the credentials are wrong."""

    http_status = 401


class NotAllowedError(LmmsError):
    """The signed-in user may not do this."""

    http_status = 403


class NotFoundError(LmmsError):
    """The named thing does not exist, or the caller may not know of it."""

    http_status = 404


class ConflictError(LmmsError):
    """The thing is in a state that does not allow this move."""

    http_status = 409


class StaleTokenError(ConflictError):
    """A fencing token older than the part's current one: the caller has lost the part and must stop."""


class UnavailableError(LmmsError):
    """A part of the system (server, queue, database) does not answer; trying again later may help."""

    http_status = 503
    exit_code = 3


class ConfigurationError(LmmsError):
    """A setting or the machine's set-up is wrong."""

    exit_code = 2


class StorageFullError(LmmsError):
    """No space is left where something has to be written."""

    http_status = 507


class UnreadableOutputError(LmmsError):
    """A result file is missing, truncated or not what it should be."""

    http_status = 422
