"""``/gates``: whether a candidate is no worse than a baseline, by the margins of a suite."""

from __future__ import annotations

from flask import jsonify
from flask.typing import ResponseReturnValue

from mlflow_lmms.gate_rules import GateRequest
from mlflow_lmms.gate_service import GateService
from mlflow_lmms.gate_sides import REGISTERED
from plugin_ui.api.parsing import parse_body
from plugin_ui.narrowing import narrowed
from plugin_ui.permissions import (
    READ,
    caller,
    readable_experiments,
    require_model,
    require_model_update,
    require_run,
    requires,
)
from plugin_ui.services import services
from plugin_ui.submit_request import model_name


@requires(READ)
def run_gate() -> ResponseReturnValue:
    """Judge, and with ``record`` (the default) write the verdict onto the candidate's model version."""
    asked = parse_body(GateRequest)
    for side in (asked.candidate, asked.baseline):
        if side.startswith(REGISTERED):
            require_model(model_name(side))
        else:
            require_run(READ, side)
    core = services()
    gates = GateService(core.client, core.scores, core.reader, core.suites, core.catalogue)
    told = gates.judge(
        asked,
        experiment_ids=narrowed(readable_experiments(), asked.experiment or ""),
        by=caller().username,
        may_record=require_model_update,
    )
    return jsonify(told)
