"""``/fleet``: boxes, GPUs, leases and queue; what administrators do with boxes and quotas.

``GET /fleet`` answers (times in unix seconds, memory in bytes, None where it is not known)::

    {"at": …,
     "boxes": [{"name", "state": open|paused|draining|drained|offline, "reason", "changed_by", "changed_at",
                "seen_at", "version", "protocol", "warning", "cpu_slots", "gpu_slots", "labels", "environments",
                "shares_gpus", "until",
                "gpus": [{"uuid", "index", "name", "memory", "free", "foreign", "is_slice", "usable", "utilisation",
                          "temperature", "power_w", "problem"}]}],
     "leases": [{"run_id", "part", "name", "user", "box", "slot", "gpus": [uuid], "memory", "since", "estimated_s"}],
     "queue": [{"run_id", "part", "name", "user", "place", "gpus", "priority", "queued_at", "cause", "reason"}],
     "reservation": None | {"run_id", "part", "name", "user", "box", "gpus", "since", "drain_at", "expected_at"}}

``run_id``, ``part``, ``name`` and ``user`` are None for runs that the caller may not read.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.planner.fleet import Quota
from plugin_ui.api.parsing import parse_body, whole_number
from plugin_ui.fleet_status import fleet_status
from plugin_ui.fleet_use import used
from plugin_ui.permissions import ADMIN, READ, SIGNED_IN, caller, readable_experiments, requires
from plugin_ui.services import services

_LONGEST_DAYS = 3660


class BoxChange(BaseModel):
    """Why a box is paused, drained or opened again."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=500)


class QuotaBody(BaseModel):
    """What a user may have; none: no limit."""

    model_config = ConfigDict(extra="forbid")

    gpus: int | None = Field(None, ge=0, le=100_000)
    gpu_hours: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)


@requires(READ)
def read_fleet() -> ResponseReturnValue:
    """The fleet as the caller may see it."""
    status = fleet_status(services(), readable_experiments(), version=version("mlflow-lmms"), now=time.time())
    return jsonify(flat(asdict(status)))


def flat(status: dict[str, Any]) -> dict[str, Any]:
    """A status as values, with the names of runs beside what they are about."""
    for entries in (status["leases"], status["queue"], [status["reservation"]] if status["reservation"] else []):
        for entry in entries:
            entry.update(entry.pop("run"))
    return status


@requires(ADMIN)
def change_box(box: str, change: str) -> ResponseReturnValue:
    """Pause (no new work), drain (what runs goes on elsewhere too) or resume a box."""
    admin = services().box_admin
    changes = {"pause": admin.pause, "drain": admin.drain, "resume": admin.resume}
    if change not in changes:
        raise NotFoundError(f"a box knows {', '.join(changes)}, not {change[:80]!r}")
    body = parse_body(BoxChange)
    changes[change](box, by=caller().username, reason=body.reason)
    word = admin.states().get(box)
    return jsonify({"box": box, "state": word.state if word is not None else "open"})


@requires(ADMIN)
def forget_box(box: str) -> ResponseReturnValue:
    """Leave a box out of the fleet that will not come back."""
    services().box_admin.forget(box, by=caller().username)
    return jsonify({"box": box, "state": "forgotten"})


@requires(READ)
def read_use() -> ResponseReturnValue:
    """GPU-hours, idle share and queue wait ``?by=user|box|run`` of the last ``?days=``."""
    by, days = request.args.get("by", "user"), whole_number("days", 30, 1, _LONGEST_DAYS)
    return jsonify({"by": by, "days": days, "use": [asdict(row) for row in used(by, days)]})


@requires(SIGNED_IN)
def read_quotas() -> ResponseReturnValue:
    """The default quota and those that differ; users see their own."""
    found, who = services().quotas.all(), caller()
    own = {user: asdict(quota) for user, quota in found.users.items() if who.is_admin or user == who.username}
    return jsonify({"default": asdict(found.default), "users": own})


@requires(ADMIN)
def put_default_quota() -> ResponseReturnValue:
    """Set what everybody may have who has no own quota."""
    return _put(None)


@requires(ADMIN)
def put_quota(user: str) -> ResponseReturnValue:
    """Set what a user may have."""
    return _put(user)


@requires(ADMIN)
def drop_quota(user: str) -> ResponseReturnValue:
    """Let the default hold for a user again."""
    services().quotas.remove(user)
    return jsonify({"user": user})


def _put(user: str | None) -> ResponseReturnValue:
    body = parse_body(QuotaBody)
    services().quotas.put(user, Quota(body.gpus, body.gpu_hours), by=caller().username)
    return jsonify({"user": user, **body.model_dump()})
