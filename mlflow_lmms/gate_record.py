"""A gate's verdict on the candidate's model version: tags that say what was judged, by whom, when and with what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_lmms.analysis.non_inferiority import Outcome
from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.gate_sides import ModelVersionName
from mlflow_lmms.names import cut, escape

_PREFIX = "lmms.gate"
_NAMED = 50


def verdict_tags(suite: str | None) -> tuple[str, str]:
    """Keys of the tags with the outcome, to search by, and with its details, as JSON."""
    outcome = f"{_PREFIX}.{escape(suite)}" if suite else _PREFIX
    return cut(outcome), cut(f"{outcome}.details")


def record_verdict(client: MlflowClient, version: ModelVersionName, told: Mapping[str, Any]) -> list[str]:
    """Write a gate's verdict (`Gate.as_json` with its sides) onto the version; returns the tags' keys.

    Raises:
        UnavailableError: MLflow does not take them.
    """
    suite = told["suite"]
    outcome, details = verdict_tags(suite["name"] if suite else None)
    try:
        # The details first: an outcome never stands there with the details of another.
        client.set_model_version_tag(version.name, version.version, details, _details(told))
        client.set_model_version_tag(version.name, version.version, outcome, str(told["outcome"]))
    except MlflowException as error:
        raise UnavailableError(f"the verdict cannot be written onto {version.label}: {error.message}") from None
    return [outcome, details]


def _details(told: Mapping[str, Any]) -> str:
    suite = told["suite"] or {}
    mean = told["mean"]
    content = {
        "outcome": told["outcome"],
        "by": told["by"],
        "at": told["at"],
        "suite": suite.get("name"),
        "suite_revision": suite.get("revision"),
        "baseline": told["baseline"]["model"],
        "runs": {side: sorted(set(told[side]["runs"].values()))[:_NAMED] for side in ("candidate", "baseline")},
        "mean": {key: mean[key] for key in ("outcome", "gain", "low", "high", "margin")},
        "counts": told["counts"],
        "group_counts": told["group_counts"],
        "not_passed": [task["task"] for task in told["tasks"] if task["outcome"] != Outcome.PASS][:_NAMED],
        "asked": told["asked"],
    }
    return json.dumps(content, ensure_ascii=False)
