"""The REST API below ``/lmms/api/v1``: parse, call the core, answer JSON.

Errors are raised; `plugin_ui.error_pages` makes JSON of them.

The table below is the whole map of it.
"""

from __future__ import annotations

from flask import Blueprint

from plugin_ui.api import (
    differences,
    evaluations,
    fleet,
    gates,
    remarks,
    results,
    runs,
    saved_views,
    score_index,
    slices,
    suites,
    system,
    trends,
    worker,
)

blueprint = Blueprint("lmms_api", __name__, url_prefix="/lmms/api/v1")

_SAMPLES = "/evaluations/<run_id>/samples/<task>"
for _method, _path, _view in (
    ("POST", "/evaluations", evaluations.submit),
    ("GET", "/evaluations", evaluations.search),
    ("GET", "/evaluations/<run_id>", evaluations.read),
    ("POST", "/evaluations/<run_id>/cancel", evaluations.cancel),
    ("POST", "/evaluations/<run_id>/retry", evaluations.retry),
    ("POST", "/evaluations/<run_id>/rescore", evaluations.rescore),
    ("GET", "/evaluations/<run_id>/log", results.read_log),
    ("GET", "/evaluations/<run_id>/artifacts/<path:path>", results.read_artifact),
    ("GET", _SAMPLES, results.samples),
    ("GET", f"{_SAMPLES}/<int:index>/media/<int:number>", results.read_media),
    ("GET", "/leaderboard", results.leaderboard),
    ("GET", "/comparability", runs.comparability),
    ("GET", "/comparison", runs.compare),
    ("GET", "/comparison/flips", differences.flips),
    ("GET", "/comparison/config", differences.config),
    ("POST", "/gates", gates.run_gate),
    ("GET", "/slices", slices.read_slices),
    ("GET", "/trend", trends.read_trend),
    ("GET", "/changes", trends.read_changes),
    ("POST", "/runs/<run_id>/index", runs.index_run),
    ("POST", "/runs/<run_id>/notes", remarks.add_note),
    ("GET", "/notes", remarks.search_notes),
    ("POST", "/runs/<run_id>/corrections", remarks.correct_result),
    ("GET", "/corrections", remarks.search_corrections),
    ("GET", "/views", saved_views.search_views),
    ("POST", "/views", saved_views.add_view),
    ("GET", "/views/<view_id>", saved_views.read_view),
    ("PUT", "/views/<view_id>", saved_views.change_view),
    ("GET", "/views/<view_id>/revisions", saved_views.view_history),
    ("GET", "/views/<view_id>/open", saved_views.open_view),
    ("GET", "/index", score_index.read_index),
    ("POST", "/index/rebuild", score_index.rebuild_index),
    ("GET", "/suites", suites.search_suites),
    ("GET", "/suites/<name>", suites.read_suite),
    ("PUT", "/suites/<name>", suites.put_suite),
    ("GET", "/suites/<name>/revisions", suites.suite_history),
    ("GET", "/suites/<name>/yaml", suites.suite_yaml),
    ("GET", "/tasks", system.search_tasks),
    ("GET", "/models", system.models),
    ("GET", "/fleet", fleet.read_fleet),
    ("POST", "/fleet/boxes/<box>/<change>", fleet.change_box),
    ("DELETE", "/fleet/boxes/<box>", fleet.forget_box),
    ("GET", "/fleet/use", fleet.read_use),
    ("GET", "/fleet/quotas", fleet.read_quotas),
    ("PUT", "/fleet/quotas", fleet.put_default_quota),
    ("PUT", "/fleet/quotas/<user>", fleet.put_quota),
    ("DELETE", "/fleet/quotas/<user>", fleet.drop_quota),
    ("GET", "/health", system.health),
    ("POST", "/worker/claim", worker.claim),
    ("POST", "/worker/started", worker.started),
    ("POST", "/worker/recording", worker.recording),
    ("POST", "/worker/task-finished", worker.task_finished),
    ("POST", "/worker/task-failed", worker.task_failed),
    ("POST", "/worker/part-finished", worker.part_finished),
    ("POST", "/worker/heartbeat", worker.heartbeat),
):
    blueprint.add_url_rule(_path, view_func=_view, methods=[_method])

BLUEPRINTS = (blueprint,)
