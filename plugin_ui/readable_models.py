"""The registered model versions that can be evaluated and that the caller may read."""

from __future__ import annotations

from mlflow.entities.model_registry import ModelVersion

from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.registry import evaluable_models
from plugin_ui import permissions
from plugin_ui.services import services


def readable_models() -> list[ModelVersion]:
    """By name, newest version first."""
    may_read: dict[str, bool] = {}
    found = evaluable_models(services().client)
    return [version for version in found if may_read.setdefault(version.name, _may_read(version.name))]


def _may_read(name: str) -> bool:
    try:
        permissions.require_model(name)
    except NotFoundError:
        return False
    return True
