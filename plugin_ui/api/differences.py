"""What differs between runs: single documents, and how the runs were made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import jsonify, request, url_for
from flask.typing import ResponseReturnValue

from mlflow_lmms.config_diff import config_diff
from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.flip_kinds import CHANGES, FlipKind
from mlflow_lmms.samples import Sample
from mlflow_lmms.score import Score
from plugin_ui.api.parsing import short_text, switch, whole_number
from plugin_ui.permissions import READ, require_run, requires
from plugin_ui.services import services

_MOST_COMPARED = 50


@requires(READ)
def flips() -> ResponseReturnValue:
    """Documents whose answer changed: ``?baseline= &candidate= &task= &kind= … &search= &offset= &limit=``.

    Kinds are those of `mlflow_lmms.flip_kinds.FlipKind`; without one, all but ``same``.
    """
    task = short_text("task") or ""
    baseline, candidate = (_score(name, task) for name in ("baseline", "candidate"))
    page = services().flips.page(
        baseline,
        candidate,
        kinds=_kinds(),
        search=short_text("search") or "",
        offset=whole_number("offset", 0, 0, 10**9),
        limit=whole_number("limit", 50, 1, 500),
    )
    found = [
        {
            "kind": flip.kind,
            "baseline": _sample(baseline, flip.baseline),
            "candidate": _sample(candidate, flip.candidate),
        }
        for flip in page.flips
    ]
    facts = {"task": task, "metric": baseline.metric, "filter": baseline.filter, "doubts": page.doubts}
    return jsonify(facts | {"documents": page.documents, "counts": page.counts, "total": page.total, "flips": found})


@requires(READ)
def config() -> ResponseReturnValue:
    """Which settings of runs differ: ``?run= &run= … &all=1``."""
    run_ids = list(dict.fromkeys(request.args.getlist("run")))
    if not 2 <= len(run_ids) <= _MOST_COMPARED:
        raise InvalidRequestError(f"run: expected 2 to {_MOST_COMPARED} different runs' ids, got {len(run_ids)}")
    for run_id in run_ids:
        require_run(READ, run_id)
    core = services()
    environments = {run_id: core.reader.environment(run_id) for run_id in run_ids}
    found = config_diff([core.client.get_run(run_id) for run_id in run_ids], environments)
    return jsonify(found.as_json(everything=switch("all")))


def _score(argument: str, task: str) -> Score:
    """The primary score of one side, which the caller may read."""
    run_id = request.args.get(argument, "")
    if not run_id or not task:
        raise InvalidRequestError(f"{argument if task else 'task'}: expected one, got none")
    require_run(READ, run_id)
    scores = services().scores.of_runs([run_id])
    found = next((score for score in scores if score.task == task), None)
    if found is None:
        has = ", ".join(sorted(score.task for score in scores)[:20]) or "no results"
        raise NotFoundError(f"run {run_id} has no score of task {task!r}; it has {has}")
    return found


def _kinds() -> frozenset[FlipKind]:
    asked = [kind for kind in request.args.getlist("kind") if kind]
    if unknown := sorted(set(asked) - set(FlipKind)):
        raise InvalidRequestError(f"kind: expected some of {', '.join(FlipKind)}, got {unknown[0][:80]!r}")
    return frozenset(FlipKind(kind) for kind in asked) or CHANGES


def _sample(score: Score, sample: Sample) -> dict[str, Any]:
    pictures = [
        url_for("lmms_api.read_media", run_id=score.run_id, task=score.task, index=sample.index, number=number)
        for number in range(sample.media)
    ]
    return {**asdict(sample), "media": pictures}
