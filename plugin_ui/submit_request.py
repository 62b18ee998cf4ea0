"""Submitting in the caller's name: permissions first, then the core. Shared by the form and the REST API."""

from __future__ import annotations

from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.submission import Submitted
from plugin_ui import permissions
from plugin_ui.services import services


def submit_for_caller(request: EvaluationRequest) -> Submitted:
    """Queue the evaluation when the caller may edit its experiment and read its model.

    Raises:
        NotAllowedError, NotFoundError: the caller may not.
        InvalidRequestError, UnavailableError: the request or the system is at fault (`Submission.submit`).
    """
    core = services()
    experiment_id, name = core.submission.experiment_for(request)
    if experiment_id is None:
        permissions.require_new_experiment(name)
    else:
        permissions.require(permissions.EDIT, experiment_id)
    if request.model is not None:
        permissions.require_model(model_name(request.model))
    by = permissions.caller().username
    return core.submission.submit(request, by=by, on_new_experiment=permissions.own_new_experiment)


def model_name(uri: str) -> str:
    """The registered model's name in ``models:/NAME/3`` or ``models:/NAME@alias``."""
    return uri.removeprefix("models:/").partition("/")[0].partition("@")[0]
