"""Evaluate large multimodal models with lmms-eval from MLflow.

Names are imported when they are asked for: the runner imports `mlflow_lmms.reading` under Pythons that have neither
MLflow nor pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_lmms.client import Client
    from mlflow_lmms.difference_frames import flipped, settings_diff
    from mlflow_lmms.errors import LmmsError
    from mlflow_lmms.frames import changes, compare, gate, leaderboard, slices, trend
    from mlflow_lmms.importing.log_results import log_results
    from mlflow_lmms.request import EvaluationRequest

__all__ = [
    "Client",
    "EvaluationRequest",
    "LmmsError",
    "changes",
    "compare",
    "flipped",
    "gate",
    "leaderboard",
    "log_results",
    "settings_diff",
    "slices",
    "trend",
]

_HOMES = {
    "Client": "mlflow_lmms.client",
    "EvaluationRequest": "mlflow_lmms.request",
    "LmmsError": "mlflow_lmms.errors",
    "changes": "mlflow_lmms.frames",
    "compare": "mlflow_lmms.frames",
    "flipped": "mlflow_lmms.difference_frames",
    "gate": "mlflow_lmms.frames",
    "leaderboard": "mlflow_lmms.frames",
    "log_results": "mlflow_lmms.importing.log_results",
    "settings_diff": "mlflow_lmms.difference_frames",
    "slices": "mlflow_lmms.frames",
    "trend": "mlflow_lmms.frames",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
