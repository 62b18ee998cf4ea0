"""Lets `mlflow_lmms.Client`, and so commands and data frames, talk to a Flask app in this process."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

_SERVER = "http://server"


class _Session:
    """The client's HTTP, through the app under test."""

    def __init__(self, visitor: FlaskClient) -> None:
        self._visitor = visitor

    def request(self, method: str, url: str, *, params: Any, json: Any, headers: Any, timeout: Any) -> Any:
        path = url.removeprefix(_SERVER)
        answer = self._visitor.open(path, method=method, query_string=params, json=json, headers=headers)
        made = requests.Response()
        made.status_code, made._content = answer.status_code, answer.data
        return made


def talk_to(visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process's clients ask the app under test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _SERVER)
    monkeypatch.setattr("mlflow_lmms.http.requests.Session", lambda: _Session(visitor))
