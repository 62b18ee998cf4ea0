"""What there is to evaluate: tasks and models; and the health of the server's parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from mlflow.entities.model_registry import ModelVersion

from mlflow_lmms.catalogue import Catalogue, CatalogueTask
from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.registry import ModelTag
from mlflow_lmms.work_order import PROTOCOL
from plugin_ui.api.parsing import whole_number
from plugin_ui.permissions import SIGNED_IN, requires
from plugin_ui.readable_models import readable_models
from plugin_ui.services import services


@requires(SIGNED_IN)
def search_tasks() -> ResponseReturnValue:
    """Groups, tags and tasks that fit ``?search=``, at most ``?limit=`` of them."""
    found = matching_names(services().catalogue(), request.args.get("search", ""))
    limit = whole_number("limit", 10_000, 1, 10_000)
    return jsonify({"tasks": found[:limit], "total": len(found)})


def matching_names(catalogue: Catalogue, search: str) -> list[dict[str, Any]]:
    """Everything that can be asked for by name and fits, one's own first; groups and tags before tasks."""
    words = search.lower().split()
    named = [("group", name, tuple(members)) for name, members in catalogue.groups.items()]
    named += [
        ("tag", name, tuple(members)) for name, members in catalogue.tags.items() if name not in catalogue.groups
    ]
    own = {task.name for task in catalogue.tasks.values() if task.own}
    found = [
        {
            "name": name,
            "kind": kind,
            "note": f"{len(members)} members",
            "own": bool(members) and own.issuperset(members),
        }
        | {"members": list(members)}
        for kind, name, members in named
        if all(word in name.lower() for word in words)
    ]
    found += [_task(task) for task in catalogue.search(search)]
    return sorted(found, key=lambda item: not item["own"])


def _task(task: CatalogueTask) -> dict[str, Any]:
    return {
        "name": task.name,
        "kind": "task",
        "note": task.dataset or task.output_type,
        "own": task.own,
        "output_type": task.output_type,
        "dataset": task.dataset,
        "modality": task.modality.value,
        "tags": list(task.tags),
    }


@requires(SIGNED_IN)
def models() -> ResponseReturnValue:
    """Registered versions that can be evaluated and that the caller may read."""
    return jsonify({"models": [_model(found) for found in readable_models()]})


def _model(found: ModelVersion) -> dict[str, Any]:
    return {
        "uri": f"models:/{found.name}/{found.version}",
        "name": found.name,
        "version": str(found.version),
        "aliases": list(found.aliases or ()),
        "adapter": found.tags[ModelTag.ADAPTER],
        "model_args": _arguments(found),
        "tags": dict(found.tags),
    }


def _arguments(found: ModelVersion) -> dict[str, Any]:
    try:
        arguments = json.loads(found.tags.get(ModelTag.ARGUMENTS, "{}"))
    except (ValueError, RecursionError):  # a tag is whatever its owner wrote; one bad one must not hide all models
        return {}
    return arguments if isinstance(arguments, dict) else {}


@requires(SIGNED_IN)
def health() -> ResponseReturnValue:
    """Versions, and for each part None or what is wrong with it; 503 when one does not answer."""
    core = services()
    parts = {"database": _problem(core.store.ping), "queue": _problem(core.queue.ping)}
    boxes = len(core.fleet.boxes()) if parts["queue"] is None else 0
    answer = {
        "version": _version("mlflow-lmms"),
        "mlflow": _version("mlflow"),
        "lmms_eval": _version("lmms_eval"),
        "protocol": PROTOCOL,
        "auth": core.settings.auth,
        "boxes": boxes,
        **parts,
    }
    return jsonify(answer), 200 if all(problem is None for problem in parts.values()) else 503


def _problem(ping: Callable[[], None]) -> str | None:
    try:
        ping()
    except UnavailableError as error:
        return error.message
    return None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
