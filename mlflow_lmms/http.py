"""Calls of the server's HTTP API: credentials, errors back into our classes, retries while the server is away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import requests

from mlflow_lmms import errors
from mlflow_lmms.errors import LmmsError, UnavailableError
from mlflow_lmms.settings import mask_password

Answer = TypeVar("Answer")

API = "/lmms/api/v1"
_TIMEOUT_S = (5.0, 60.0)
_BY_STATUS: dict[int, type[LmmsError]] = {
    400: errors.InvalidRequestError,
    401: errors.UnauthenticatedError,
    403: errors.NotAllowedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    422: errors.UnreadableOutputError,
    507: errors.StorageFullError,
}
_AWAY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Credentials:
    """What a program signs in with; MLflow's own environment variables."""

    username: str | None = None
    password: str | None = None
    token: str | None = None

    @staticmethod
    def from_environment(environ: Mapping[str, str] | None = None) -> Credentials:
        """Read ``MLFLOW_TRACKING_USERNAME``, ``_PASSWORD`` and ``_TOKEN``."""
        found = os.environ if environ is None else environ
        return Credentials(
            found.get("MLFLOW_TRACKING_USERNAME"),
            found.get("MLFLOW_TRACKING_PASSWORD"),
            found.get("MLFLOW_TRACKING_TOKEN"),
        )


class HttpApi:
    """One server's API."""

    def __init__(self, server_url: str, credentials: Credentials | None = None) -> None:
        self.server_url = server_url.rstrip("/")
        self._shown = mask_password(self.server_url)
        self.session = requests.Session()
        signed = credentials or Credentials.from_environment()
        if signed.token:
            self.session.headers["Authorization"] = f"Bearer {signed.token}"
        elif signed.username and signed.password:
            self.session.auth = (signed.username, signed.password)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Call ``/lmms/api/v1<path>`` and return the JSON answer.

        Raises:
            LmmsError: of the class that the server's answer stands for; UnavailableError when there is none.
        """
        try:
            response = self.session.request(
                method,
                f"{self.server_url}{API}{path}",
                params={key: value for key, value in (query or {}).items() if value is not None},
                json=body,
                headers=headers,
                timeout=_TIMEOUT_S,
            )
        except requests.RequestException as error:
            raise self.unavailable(error) from None
        return self.answer(response)

    def unavailable(self, error: object) -> UnavailableError:
        """The error for a server that does not answer."""
        return UnavailableError(
            f"the MLflow server at {self._shown} does not answer ({_short(error)}): start it with "
            "`mlflow-lmms up`, or set MLFLOW_TRACKING_URI to where it is; `mlflow-lmms doctor` checks it"
        )

    def answer(self, response: requests.Response) -> dict[str, Any]:
        """The JSON of a good answer; the error of a bad one."""
        try:
            content = response.json()
        except requests.exceptions.JSONDecodeError:
            content = None
        if response.ok and isinstance(content, dict):
            return content
        told = content.get("error") if isinstance(content, dict) else None
        if response.status_code in _AWAY:
            raise UnavailableError(_message(told) or f"the MLflow server answered {response.status_code}")
        if told is None and (response.ok or response.status_code == 404):
            raise LmmsError(
                f"{self._shown} is no MLflow server with our plugin: start it with `mlflow-lmms up`, or with "
                "`mlflow server --app-name lmms`"
            )
        if response.status_code == 401:
            raise errors.UnauthenticatedError(
                f"the MLflow server at {self._shown} wants you to sign in: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        raise _error(response.status_code, told)


def _error(status: int, told: Any) -> LmmsError:
    named = getattr(errors, str(told.get("class")), None) if isinstance(told, dict) else None
    kind = named if isinstance(named, type) and issubclass(named, LmmsError) else _BY_STATUS.get(status, LmmsError)
    details = told.get("details") if isinstance(told, dict) else None
    return kind(_message(told) or f"the server answered {status}", **(details if isinstance(details, dict) else {}))


def _message(told: Any) -> str | None:
    return str(told["message"]) if isinstance(told, dict) and told.get("message") else None


def _short(error: object) -> str:
    return str(getattr(error, "__cause__", None) or type(error).__name__)[:120]


def quoted(part: str) -> str:
    """A name as one segment of a path."""
    return quote(part, safe="")


def until_available(
    call: Callable[[], Answer],
    *,
    keep_trying: Callable[[], bool] = lambda: True,
    wait: Callable[[float], Any] = time.sleep,
    longest_s: float = 5.0,
) -> Answer:
    """Repeat `call` with growing pauses while the server is away and `keep_trying` says so.

    Raises:
        UnavailableError: the last one, when `keep_trying` said no.
    """
    pause = 0.2
    while True:
        try:
            return call()
        except UnavailableError:
            if not keep_trying():
                raise
            wait(pause)
            pause = min(pause * 1.7, longest_s)
