"""What an evaluation has brought: leaderboard, log, samples with their pictures, artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from flask import Response, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.errors import InvalidRequestError, NotFoundError, UnavailableError
from mlflow_lmms.live_events import EventLog, TokenFilter
from mlflow_lmms.samples import Sample
from mlflow_lmms.states import FINAL
from plugin_ui.api.parsing import switch, whole_number
from plugin_ui.finished_task import require_finished
from plugin_ui.permissions import READ, readable_experiments, requires
from plugin_ui.services import services
from plugin_ui.stored_files import artifact_url

_MOST_LINES = 100_000
_MOST_ROWS = 1_000_000
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
#: What a browser may show as a picture. SVG is not among them: it can hold scripts.
_PICTURES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})

LogLine = dict[str, Any]


@requires(READ)
def leaderboard() -> ResponseReturnValue:
    """The board of what the caller may read: ``?suite= &experiment= …`` (`BoardQuery`), ``&offset= &limit=``."""
    query = BoardQuery.from_arguments(request.args.to_dict(flat=False))
    ranked = services().boards.ranked(query, experiment_ids=readable_experiments())
    limit = whole_number("limit", 0, 0, _MOST_ROWS) or None
    return jsonify(ranked.as_json(offset=whole_number("offset", 0, 0, _MOST_ROWS), limit=limit))


@requires(READ, run="run_id")
def read_log(run_id: str) -> ResponseReturnValue:
    """Lines of the log so far: ``?level= &search= &after= &limit=``; ``next`` is the `after` of the next call."""
    level = request.args.get("level", "").upper() or "DEBUG"
    if level not in _LEVELS:
        raise InvalidRequestError(f"level: expected one of {', '.join(_LEVELS)}, got {level[:80]!r}")
    search = request.args.get("search", "").lower()
    after = whole_number("after", 0, 0, 10**12)
    wanted = (
        line
        for line in _log_lines(run_id)
        if _LEVELS.get(str(line.get("level")), 20) >= _LEVELS[level]
        and search in str(line.get("message", "")).lower()
    )
    lines = list(islice(wanted, after, after + whole_number("limit", _MOST_LINES, 1, _MOST_LINES)))
    return jsonify({"lines": lines, "next": after + len(lines)})


def _log_lines(run_id: str) -> Iterator[LogLine]:
    """The stored log once the run has ended, before that the live one; each stands in for the other."""
    core = services()
    if core.evaluation(run_id).state not in FINAL:
        lines = _live_lines(core.events, run_id)
        first = next(lines, None)
        if first is not None:
            yield first
            yield from lines
            return
    try:
        yield from core.reader.log(run_id)
    except NotFoundError:
        yield from _live_lines(core.events, run_id)


def _live_lines(events: EventLog, run_id: str) -> Iterator[LogLine]:
    current, after = TokenFilter(), "0-0"
    try:
        while found := events.read(run_id, after):
            after = found[-1].id
            for event in found:
                if event.kind == "log" and current.accepts(event.part, event.token):
                    yield from event.data.get("lines", ())
    except UnavailableError:
        return


@requires(READ, run="run_id")
def samples(run_id: str, task: str) -> ResponseReturnValue:
    """One page of samples: ``?wrong=1 &errored=1 &search= &offset= &limit=``."""
    core = services()
    require_finished(core.evaluation(run_id), task)
    page = core.reader.samples(
        run_id,
        task,
        wrong_only=switch("wrong"),
        errored_only=switch("errored"),
        search=request.args.get("search", ""),
        offset=whole_number("offset", 0, 0, 10**9),
        limit=whole_number("limit", 50, 1, 500),
    )
    return jsonify({"samples": [_sample(run_id, task, sample) for sample in page.samples], "total": page.total})


def _sample(run_id: str, task: str, sample: Sample) -> dict[str, Any]:
    pictures = [
        url_for("lmms_api.read_media", run_id=run_id, task=task, index=sample.index, number=number)
        for number in range(sample.media)
    ]
    return {**asdict(sample), "media": pictures}


@requires(READ, run="run_id")
def read_media(run_id: str, task: str, index: int, number: int) -> ResponseReturnValue:
    """One stored picture of one sample."""
    kind, content = services().reader.media(run_id, task, index, number)
    answer = Response(content, mimetype=kind if kind in _PICTURES else "application/octet-stream")
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    answer.cache_control.private = True
    answer.cache_control.max_age = 300
    if kind not in _PICTURES:
        answer.headers["Content-Disposition"] = "attachment"
    return answer


@requires(READ, run="run_id")
def read_artifact(run_id: str, path: str) -> ResponseReturnValue:
    """Go to where MLflow serves the artifact."""
    return redirect(artifact_url(run_id, path))
