"""The page *Fleet*: boxes and GPUs, what runs where, the queue with reasons, who used how much."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from mlflow_lmms.errors import InvalidRequestError, LmmsError, UnauthenticatedError, UnavailableError
from mlflow_lmms.gpu_use import UseSummary
from mlflow_lmms.queue_keys import GpuReport
from plugin_ui.fleet_status import BoxStatus, FleetStatus, LeaseStatus, QueuedStatus, ReservationStatus, fleet_status
from plugin_ui.fleet_use import used
from plugin_ui.pages.evaluations import feed_url
from plugin_ui.pages.frame import render
from plugin_ui.pages.trouble import Trouble, no_queue_server, no_worker
from plugin_ui.permissions import ADMIN, READ, caller, readable_experiments, requires
from plugin_ui.services import services

_DAYS = 30
_MOST_WAITING = 200
#: What an administrator may do with a box: what it is called, and what it means.
CHANGES = {
    "pause": ("Pause", "It takes no new work; what runs there finishes."),
    "drain": (
        "Drain",
        "It takes no new work, and what runs there is given back: it goes on elsewhere from where it was.",
    ),
    "resume": ("Resume", "It takes work again."),
    "forget": ("Forget", "It is left out of the fleet, and nothing waits for it any more."),
}


@dataclass(frozen=True)
class GpuLine:
    """One GPU with who holds it; `used` memory in bytes is None where the driver does not tell, `kept`: reserved."""

    gpu: GpuReport
    leases: tuple[LeaseStatus, ...]
    used: int | None
    kept: bool


@dataclass(frozen=True)
class BoxCard:
    """One box: its status, GPUs, work that needs none, what may be done with it, and when it is taken away."""

    status: BoxStatus
    gpus: tuple[GpuLine, ...]
    work: tuple[LeaseStatus, ...]
    changes: tuple[str, ...]
    ends_in_s: float | None


@dataclass(frozen=True)
class Totals:
    """The fleet in numbers."""

    boxes: int
    gpus: int
    busy_gpus: int
    running: int
    waiting: int


@dataclass(frozen=True)
class AskedChange:
    """A change of a box that is to be confirmed."""

    box: str
    change: str
    reason: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class FleetContext:
    """What ``lmms/fleet.html`` takes."""

    template: ClassVar[str] = "lmms/fleet.html"

    boxes: list[BoxCard]
    totals: Totals
    queue: tuple[QueuedStatus, ...]
    more_waiting: int
    reservation: ReservationStatus | None
    by_user: list[UseSummary]
    by_box: list[UseSummary]
    most_hours: float
    days: int
    trouble: Trouble | None
    changes: dict[str, tuple[str, str]]
    can_change: bool
    asked: AskedChange | None
    feed_url: str


@requires(READ)
def show() -> str:
    """The fleet now; scripts keep the page up to date. ``?box= &change=`` asks an administrator to confirm."""
    box, change = request.args.get("box", ""), request.args.get("change", "")
    asked = AskedChange(box, change) if box and change in CHANGES and caller().is_admin else None
    readable_experiments()
    return _page(asked)


@requires(ADMIN)
def change_box(box: str) -> ResponseReturnValue:
    """Do what the form asks for and go back to the fleet, or say why not."""
    change, reason = request.form.get("change", ""), request.form.get("reason", "").strip()
    admin = services().box_admin
    doors = {"pause": admin.pause, "drain": admin.drain, "resume": admin.resume, "forget": admin.forget}
    try:
        if change not in doors:
            raise InvalidRequestError(f"change: expected one of {', '.join(doors)}, got {change[:80]!r}")
        doors[change](box, by=caller().username, reason=reason)
    except UnauthenticatedError:
        raise
    except LmmsError as error:
        readable_experiments()
        return _page(AskedChange(box, change, reason, error.message)), error.http_status
    return redirect(url_for("lmms.fleet"), 303)


def _page(asked: AskedChange | None) -> str:
    core = services()
    try:
        status = fleet_status(core, readable_experiments(), version=version("mlflow-lmms"), now=time.time())
        trouble = None if any(box.state != "offline" for box in status.boxes) else no_worker()
    except UnavailableError as error:
        status, trouble = FleetStatus(time.time(), (), (), (), None), no_queue_server(error)
    by_user, by_box = used("user", _DAYS), used("box", _DAYS)
    context = FleetContext(
        boxes=[_card(box, status) for box in sorted(status.boxes, key=lambda box: box.state == "offline")],
        totals=_totals(status),
        queue=status.queue[:_MOST_WAITING],
        more_waiting=max(0, len(status.queue) - _MOST_WAITING),
        reservation=status.reservation,
        by_user=by_user,
        by_box=by_box,
        most_hours=max((row.gpu_hours for row in (*by_user, *by_box)), default=0.0),
        days=_DAYS,
        trouble=trouble,
        changes=CHANGES,
        can_change=caller().is_admin,
        asked=asked,
        feed_url=feed_url(),
    )
    return render(context)


def _totals(status: FleetStatus) -> Totals:
    here = [box for box in status.boxes if box.state != "offline"]
    return Totals(
        boxes=len(here),
        gpus=sum(len(box.gpus) for box in here),
        busy_gpus=len({uuid for lease in status.leases for uuid in lease.gpus}),
        running=len(status.leases),
        waiting=len(status.queue),
    )


def _card(box: BoxStatus, status: FleetStatus) -> BoxCard:
    here = [lease for lease in status.leases if lease.box == box.name]
    kept = status.reservation.gpus if status.reservation and status.reservation.box == box.name else ()
    lines = [
        GpuLine(
            gpu=gpu,
            leases=tuple(lease for lease in here if gpu.uuid in lease.gpus),
            used=gpu.memory - gpu.free if gpu.memory and gpu.free is not None else None,
            kept=gpu.uuid in kept,
        )
        for gpu in box.gpus
    ]
    work = tuple(lease for lease in here if not lease.gpus)
    ends_in_s = None if box.until is None else max(0.0, box.until - status.at)
    return BoxCard(box, tuple(lines), work, _changes(box.state), ends_in_s)


def _changes(state: str) -> tuple[str, ...]:
    if state == "offline":
        return ("forget",)
    return {"paused": ("drain", "resume"), "drained": ("resume",)}.get(state, ("pause", "drain"))
