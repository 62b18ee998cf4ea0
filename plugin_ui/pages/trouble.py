"""What keeps queued work from being done: no queue server, no worker, no worker that fits. Said with the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.planner.fleet import Cause, Wait
from mlflow_lmms.queue_keys import BoxReport
from mlflow_lmms.services import Services
from mlflow_lmms.states import State
from plugin_ui.queue_places import queue_places, queue_waits

_WORKER = "mlflow-lmms worker"
#: Reasons to wait that do not go away by themselves.
_HEADINGS = {
    Cause.NO_BOX: "No box is there that could run it.",
    Cause.NEVER_FITS: "No box of the fleet can run it.",
    Cause.BOXES_CLOSED: "The boxes that could run it take no work.",
}


@dataclass(frozen=True)
class Trouble:
    """Something that a reader can mend, and the command that does."""

    heading: str
    text: str
    command: str | None = None


@dataclass(frozen=True)
class QueueView:
    """The queue as a page shows it: each waiting run's place (1 is next), and what is wrong, if anything."""

    places: dict[str, int]
    boxes: tuple[BoxReport, ...]
    waits: dict[str, Wait]
    trouble: Trouble | None


def look_at_queue(core: Services) -> QueueView:
    """Ask the queue server for places, reasons and workers; its absence is a trouble and no error."""
    try:
        waiting, boxes, waits = core.queue.queued(), tuple(core.fleet.boxes()), core.fleet.waits()
    except UnavailableError as error:
        return QueueView({}, (), {}, no_queue_server(error))
    return QueueView(queue_places(waiting), boxes, queue_waits(waiting, waits), None if boxes else no_worker())


def waiting_trouble(view: QueueView, evaluation: Evaluation) -> Trouble | None:
    """Why a queued evaluation cannot start now although it stands in the queue; None when it can or has started."""
    if evaluation.state is not State.QUEUED or view.trouble is not None:
        return view.trouble if evaluation.state is State.QUEUED else None
    wait = view.waits.get(evaluation.run_id)
    if wait is not None:
        heading = _HEADINGS.get(wait.cause)
        return Trouble(heading, wait.reason) if heading is not None else None
    needed = max(part.gpus for part in evaluation.parts)
    environment = evaluation.request.environment
    fitting = [box for box in view.boxes if _can_run(box, needed)]
    if not fitting:
        what = "a CPU slot" if needed == 0 else f"{needed} GPU{'s' if needed > 1 else ''}"
        return Trouble(f"No listening worker has {what}.", "The evaluation waits until one starts.", _WORKER)
    if environment is not None and not any(environment in box.environments for box in fitting):
        text = "Start a worker whose MLFLOW_LMMS_ENVIRONMENTS names it."
        return Trouble(f"No listening worker offers the environment {environment}.", text, _WORKER)
    return None


def no_queue_server(error: UnavailableError) -> Trouble:
    """The queue server is away."""
    return Trouble("The queue server does not answer.", error.message, "mlflow-lmms doctor")


def no_worker() -> Trouble:
    """No box is connected."""
    text = "What is queued waits until one starts. Start one on a machine with GPUs, or on this one:"
    return Trouble("No worker is listening.", text, _WORKER)


def _can_run(box: BoxReport, gpus: int) -> bool:
    return box.cpu_slots > 0 if gpus == 0 else box.gpu_slots > 0 and len(box.gpus) >= gpus
