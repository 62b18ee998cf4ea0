"""Our pages: each a view function, a context dataclass with exactly what its template takes, and the template.

The table below is the whole map of them.
"""

from __future__ import annotations

from flask import Blueprint

from plugin_ui.pages import evaluation, evaluations, fleet, leaderboard, new_evaluation, samples, start, suites
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
    ("POST", "/evaluations/new/command", "paste_command", new_evaluation.paste),
    ("GET", "/evaluations/<run_id>", "evaluation", evaluation.show),
    ("POST", "/evaluations/<run_id>/cancel", "cancel_evaluation", evaluation.cancel),
    ("POST", "/evaluations/<run_id>/retry", "retry_evaluation", evaluation.retry),
    ("GET", "/evaluations/<run_id>/samples/<task>", "samples", samples.show),
    ("POST", "/evaluations/<run_id>/rescore", "rescore_evaluation", evaluation.rescore),
    ("GET", "/fleet", "fleet", fleet.show),
    ("POST", "/fleet/boxes/<box>", "change_box", fleet.change_box),
    ("GET", "/suites", "suites", suites.show_all),
    ("POST", "/suites", "store_suite", suites.store),
    ("GET", "/suites/<name>", "suite", suites.show_one),
):
    blueprint.add_url_rule(_path, _endpoint, _view, methods=[_method])

BLUEPRINTS = (blueprint,)
