"""Evaluate large multimodal models with lmms-eval from MLflow."""

from mlflow_lmms.client import Client
from mlflow_lmms.errors import LmmsError
from mlflow_lmms.request import EvaluationRequest

__all__ = ["Client", "EvaluationRequest", "LmmsError"]
