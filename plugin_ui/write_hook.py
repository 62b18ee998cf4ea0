"""Tells of every write to a run that MLflow has answered with success, so that the score index follows at once.

It runs inside users' requests: it reads what MLflow has parsed already, touches no database, and whatever it cannot
read it leaves to the sweep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request, Response, request

_WRITE = re.compile(r"/(?:ajax-)?api/\d\.\d/mlflow/(?P<what>runs|experiments)/(?P<verb>[a-z-]+)$")
_READING = frozenset({"search", "get"})
#: What changes all runs of an experiment. Nothing of an experiment's name or tags is indexed.
_OF_ALL_RUNS = frozenset({"delete", "restore"})
_LONGEST = 64


def install(mlflow_app: Flask, note_run: Callable[[str], None], note_experiment: Callable[[str], None]) -> None:
    """Watch MLflow's Flask app, through which all its writes to runs go."""

    def note(response: Response) -> Response:
        if request.method == "POST" and response.status_code == 200 and (found := _WRITE.search(request.path)):
            what, verb = found.group("what", "verb")
            if what == "experiments" and verb in _OF_ALL_RUNS:
                _tell(note_experiment, _body().get("experiment_id"))
            elif what == "runs" and verb == "create":
                _tell(note_run, _created(response))
            elif what == "runs" and verb not in _READING:
                _tell(note_run, _body().get("run_id") or _body().get("run_uuid"))
        return response

    mlflow_app.after_request(note)


def _tell(note: Callable[[str], None], told: Any) -> None:
    if isinstance(told, str) and 0 < len(told) <= _LONGEST:
        note(told)


def _body() -> Mapping[str, Any]:
    content = _json(request)  # parsed once by MLflow and kept with the request
    return content if isinstance(content, dict) else {}


def _created(response: Response) -> Any:
    content = _json(response)
    for name in ("run", "info", "run_id"):
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _json(message: Request | Response) -> Any:
    try:
        return message.get_json(force=True, silent=True)
    except RecursionError:  # nested too deeply; `silent` is about text that is no JSON
        return None
