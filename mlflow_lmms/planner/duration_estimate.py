"""How long a task is likely to take, from what earlier runs took. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: For what was never run: one answer of a model of a few billion weights, and loading it.
_SECONDS_PER_SAMPLE = 1.5
USUAL_LOAD_S = 60.0


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task that has been run: `seconds` on `gpus` GPUs without loading the model."""

    model: str
    task: str
    samples: int
    seconds: float
    gpus: int = 1


@dataclass(frozen=True, slots=True)
class DurationEstimate:
    """Seconds, and where they come from."""

    seconds: float
    source: str


def estimate_task(model: str, task: str, samples: int, gpus: int, earlier: Iterable[TaskRun]) -> DurationEstimate:
    """How long `samples` of a task take: by the same model on it, the same model, or other models on it."""
    runs = [run for run in earlier if run.samples > 0 and (run.model == model or run.task == task)]
    choices: Mapping[str, Sequence[TaskRun]] = {
        "earlier runs of the model on the task": [run for run in runs if run.model == model and run.task == task],
        "the model on other tasks": [run for run in runs if run.model == model],
        "other models on the task": runs,
    }
    for source, chosen in choices.items():
        if chosen:
            each = statistics.median(run.seconds * max(run.gpus, 1) / run.samples for run in chosen)
            return DurationEstimate(each * samples / max(gpus, 1), source)
    return DurationEstimate(_SECONDS_PER_SAMPLE * samples / max(gpus, 1), "a usual value")


def estimate_job(tasks: Iterable[DurationEstimate], load_s: float | None = None) -> float:
    """Seconds of a job that loads its model once and runs tasks one after another."""
    return (USUAL_LOAD_S if load_s is None else load_s) + sum(task.seconds for task in tasks)
