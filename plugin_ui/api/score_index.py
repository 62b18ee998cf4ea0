"""The score index as a whole: how far it follows MLflow, and building it anew."""

from __future__ import annotations

from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue

from mlflow_lmms.feed_state import Walk
from mlflow_lmms.score_feed import REINDEX, SWEEP
from plugin_ui.permissions import ADMIN, requires
from plugin_ui.services import services


@requires(ADMIN)
def read_index() -> ResponseReturnValue:
    """How many changes wait to be looked at, and how far the sweep and the last rebuild are."""
    feed = services().feed
    return jsonify(
        {"waiting": feed.waiting(), "sweep": _json(feed.walk(SWEEP)), "reindex": _json(feed.walk(REINDEX))}
    )


@requires(ADMIN)
def rebuild_index() -> ResponseReturnValue:
    """Build the index anew from MLflow alone, or go on with that; boards stay whole meanwhile."""
    return jsonify({"reindex": _json(services().feed.start_reindex())})


def _json(walk: Walk | None) -> dict[str, Any] | None:
    return None if walk is None else walk.as_json()
