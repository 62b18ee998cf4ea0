"""Our pages: each a view function, a context dataclass with exactly what its template takes, and the template.

The table below is the whole map of them.
"""

from __future__ import annotations

from flask import Blueprint

from plugin_ui.pages import evaluation, evaluations, leaderboard, new_evaluation, samples, start, suites
from plugin_ui.pages.formats import FILTERS
from plugin_ui.pages.frame import page_frame

blueprint = Blueprint("lmms", __name__, url_prefix="/lmms", static_folder="../static", template_folder="../templates")
blueprint.add_app_template_global(page_frame)
for _name, _filter in FILTERS.items():
    blueprint.add_app_template_filter(_filter, _name)

for _method, _path, _endpoint, _view in (
    ("GET", "/", "start", start.show),
    ("GET", "/leaderboard", "leaderboard", leaderboard.show),
    ("GET", "/evaluations", "evaluations", evaluations.show),
    ("GET", "/evaluations/new", "new_evaluation", new_evaluation.show),
    ("POST", "/evaluations/new", "submit_evaluation", new_evaluation.submit),
    ("GET", "/evaluations/<run_id>", "evaluation", evaluation.show),
    ("POST", "/evaluations/<run_id>/cancel", "cancel_evaluation", evaluation.cancel),
    ("POST", "/evaluations/<run_id>/retry", "retry_evaluation", evaluation.retry),
    ("GET", "/evaluations/<run_id>/samples/<task>", "samples", samples.show),
    ("GET", "/suites", "suites", suites.show_all),
    ("POST", "/suites", "store_suite", suites.store),
    ("GET", "/suites/<name>", "suite", suites.show_one),
):
    blueprint.add_url_rule(_path, _endpoint, _view, methods=[_method])

BLUEPRINTS = (blueprint,)
