"""A model's scores over its versions or over time, and what changed in a period."""

from __future__ import annotations

import time
from typing import cast

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.trends import Narrowing, Over, Trends
from plugin_ui.api.parsing import seconds, switch
from plugin_ui.narrowing import narrowed
from plugin_ui.permissions import READ, readable_experiments, requires
from plugin_ui.services import services

_OVER = ("version", "time")


@requires(READ)
def read_trend() -> ResponseReturnValue:
    """A model's results, each against the one before: ``?model= &over=version|time &task= … &suite= &partial=1``."""
    model, over = request.args.get("model", ""), request.args.get("over", "") or _OVER[0]
    if not model:
        raise InvalidRequestError("model: expected a registered model's name, got none")
    if over not in _OVER:
        raise InvalidRequestError(f"over: expected version or time, got {over[:80]!r}")
    return jsonify(_trends().trend(model, _narrowing(), cast(Over, over)))


@requires(READ)
def read_changes() -> ResponseReturnValue:
    """What changed in a period: ``?since= &until= &task= … &suite= &experiment=``, times in unix seconds."""
    since, until = seconds("since"), seconds("until")
    if since is None:
        raise InvalidRequestError("since: expected a time in unix seconds, got none")
    end = time.time() if until is None else until
    if not since <= end:
        raise InvalidRequestError(f"since: expected a time before until ({end:.0f}), got {since:.0f}")
    return jsonify(_trends().changes(since, end, _narrowing()))


def _trends() -> Trends:
    core = services()
    return Trends(core.store.engine, core.reader.vector)


def _narrowing() -> Narrowing:
    return Narrowing(
        experiment_ids=narrowed(readable_experiments(), request.args.get("experiment", "")),
        suite=request.args.get("suite") or None,
        tasks=request.args.getlist("task"),
        partial=switch("partial"),
    )
