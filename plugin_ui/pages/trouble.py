"""What keeps queued work from being done: no queue server, no worker, no worker that fits. Said with the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_queue import Box, EvaluationQueue
from mlflow_lmms.states import State
from plugin_ui.queue_places import queue_places

_WORKER = "mlflow-lmms worker"


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
    boxes: tuple[Box, ...]
    trouble: Trouble | None


def look_at_queue(queue: EvaluationQueue) -> QueueView:
    """Ask the queue server for places and workers; its absence is a trouble and no error."""
    try:
        waiting, boxes = queue.queued(), tuple(queue.boxes())
    except UnavailableError as error:
        return QueueView({}, (), Trouble("The queue server does not answer.", error.message, "mlflow-lmms doctor"))
    return QueueView(queue_places(waiting), boxes, None if boxes else _no_worker())


def waiting_trouble(view: QueueView, evaluation: Evaluation) -> Trouble | None:
    """Why a queued evaluation cannot start now although it stands in the queue; None when it can or has started."""
    if evaluation.state is not State.QUEUED or view.trouble is not None:
        return view.trouble if evaluation.state is State.QUEUED else None
    needed = max(part.gpus for part in evaluation.parts)
    environment = evaluation.request.environment
    fitting = [box for box in view.boxes if box.can_run(needed)]
    if not fitting:
        what = "a CPU slot" if needed == 0 else f"{needed} GPU{'s' if needed > 1 else ''}"
        return Trouble(f"No listening worker has {what}.", "The evaluation waits until one starts.", _WORKER)
    if environment is not None and not any(environment in box.environments for box in fitting):
        text = "Start a worker whose MLFLOW_LMMS_ENVIRONMENTS names it."
        return Trouble(f"No listening worker offers the environment {environment}.", text, _WORKER)
    return None


def _no_worker() -> Trouble:
    text = "What is queued waits until one starts. Start one on a machine with GPUs, or on this one:"
    return Trouble("No worker is listening.", text, _WORKER)
