"""``/views``: saved boards and comparisons. By its id everybody may open a view who may read what is in it."""

from __future__ import annotations

from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.saved_view import SavedBoard, SavedComparison, View, parse_view
from mlflow_lmms.suite import Note
from plugin_ui.api.parsing import parse_body, short_text, switch, whole_number
from plugin_ui.permissions import READ, caller, readable_experiments, require, require_run, requires
from plugin_ui.services import services

_KINDS = ("board", "comparison")
_MOST_ROWS = 1_000_000


class PutView(BaseModel):
    """A view's content; `base` is the revision that a change was made from."""

    model_config = ConfigDict(extra="forbid")

    view: dict[str, Any]
    note: Note = ""
    base: int | None = Field(None, ge=1, le=10**9)


@requires(READ)
def search_views() -> ResponseReturnValue:
    """The caller's views and the shared ones: ``?kind=board|comparison &archived=1``."""
    kind = short_text("kind") or None
    if kind is not None and kind not in _KINDS:
        raise InvalidRequestError(f"kind: expected one of {', '.join(_KINDS)}, got {kind[:80]!r}")
    found = services().views.heads(
        readable_experiments(), by=caller().username, kind=kind, archived=switch("archived")
    )
    return jsonify({"views": [revision.as_json() for revision in found]})


@requires(READ)
def add_view() -> ResponseReturnValue:
    """Save a board or a comparison; the caller is its owner."""
    body = parse_body(PutView)
    view = parse_view(body.view)
    made = services().views.add(view, _experiments(view), by=caller().username, note=body.note)
    return jsonify(made.as_json()), 201


@requires(READ)
def read_view(view_id: str) -> ResponseReturnValue:
    """One revision (``?revision=``, default: the newest)."""
    return jsonify(services().views.get(view_id, readable_experiments(), _revision()).as_json())


@requires(READ)
def change_view(view_id: str) -> ResponseReturnValue:
    """Add a revision; 201 when that was done, 200 when the newest is like this already."""
    core, who, body = services(), caller(), parse_body(PutView)
    view, readable = parse_view(body.view), readable_experiments()
    core.views.get(view_id, readable)  # who may not see it is told nothing of the runs that the body names
    revision, made = core.views.change(
        view_id,
        view,
        _experiments(view),
        by=who.username,
        is_admin=who.is_admin,
        readable=readable,
        note=body.note,
        base=body.base,
    )
    return jsonify({**revision.as_json(), "made": made}), 201 if made else 200


@requires(READ)
def view_history(view_id: str) -> ResponseReturnValue:
    """Every revision that the caller may see, newest first."""
    found = services().views.history(view_id, readable_experiments())
    return jsonify({"revisions": [revision.as_json() for revision in found]})


@requires(READ)
def open_view(view_id: str) -> ResponseReturnValue:
    """What the view shows now, of what the caller may read: the comparison, or the board (``?offset= &limit=``)."""
    core, readable = services(), readable_experiments()
    found = core.views.get(view_id, readable, _revision())
    if isinstance(found.view, SavedComparison):
        shown = found.view.opened(core.scores.of_runs(found.view.runs), core.reader.vector)
    else:
        board = core.boards.ranked(found.view.query, experiment_ids=readable)
        limit = whole_number("limit", 0, 0, _MOST_ROWS) or None
        shown = board.as_json(offset=whole_number("offset", 0, 0, _MOST_ROWS), limit=limit)
    return jsonify({**found.as_json(), "shown": shown})


def _experiments(view: View) -> set[str]:
    """The experiments behind a view, all of which the caller may read."""
    readable_experiments()
    if isinstance(view, SavedBoard):
        for experiment_id in view.query.experiments:
            require(READ, experiment_id)
        return set(view.query.experiments)
    return {require_run(READ, run_id) for run_id in view.runs}


def _revision() -> int | None:
    return whole_number("revision", 0, 1, 10**9) or None
