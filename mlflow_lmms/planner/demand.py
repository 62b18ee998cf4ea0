"""Which boxes and GPUs can ever run a job, and what is missing where none can; what is busy is not known here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from mlflow_lmms.planner.fleet import GIB, Box, Gpu, Job

#: A driver counts a card sold as 80 GB as 79.6 GiB or as 80.0; an estimate is not that exact either.
_SIZE_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job takes, on the boxes (by name) that suit it.

    Attributes:
        size: the total memory from which a GPU is tried.
        memory: what must be free on the GPU; 0: a whole GPU, whatever the estimate says.
        may_share: one GPU is shared by memory, on a box whose owner allows it.
        impossible: why no box suits, in words; None where one does.
    """

    gpus: int
    size: int
    memory: int
    may_share: bool
    gpu_type: str | None
    boxes: frozenset[str]
    impossible: str | None = None

    def takes(self, gpu: Gpu) -> bool:
        """Whether a GPU, when it is free, can be one of those of the job."""
        return gpu.usable and of_type(gpu, self) and (gpu.memory == 0 or gpu.memory >= self.size)


def shape(job: Job) -> Hashable:
    """What of a job decides where it fits: jobs of the same shape fit in the same places."""
    return (
        job.gpus,
        job.memory,
        job.least_memory,
        job.whole_gpus,
        job.gpu_type,
        job.labels,
        job.box,
        job.environment,
        job.boxes,
    )


def demand_of(job: Job, boxes: Sequence[Box]) -> Demand:
    """What a job takes.

    An estimate that is larger than every GPU does not rule a job out: it is tried on the largest there is. Only the
    least memory that it needs beyond doubt does.
    """
    suiting = [box for box in boxes if suits(job, box)]
    wanted = job.memory or 0
    sizes = {box.name: _nth_largest(job, box) for box in suiting} if job.gpus else {}
    largest = max(sizes.values(), default=0)
    too_large = 0 < largest < wanted * (1 - _SIZE_TOLERANCE)
    size = int(largest) if too_large else int(wanted * (1 - _SIZE_TOLERANCE))
    return Demand(
        gpus=job.gpus,
        size=size,
        memory=0 if too_large else wanted,
        may_share=job.gpus == 1 and wanted > 0 and not job.whole_gpus and not too_large,
        gpu_type=job.gpu_type,
        boxes=frozenset(box.name for box in suiting if sizes.get(box.name, size) >= size),
        impossible=None if suiting else _missing(job, boxes),
    )


def suits(job: Job, box: Box) -> bool:
    """Whether a box, when nothing runs on it, has all that the job asks for."""
    return all(has(job, box) for _, has in _WANTS)


def of_type(gpu: Gpu, wanted: Job | Demand) -> bool:
    """Whether a GPU is of the kind that is asked for; jobs on several take no slices."""
    if gpu.is_slice and wanted.gpus > 1:  # one process sees one slice
        return False
    if wanted.gpu_type is None:
        return True
    words = gpu.type.lower().replace("-", " ").split()
    return all(word in words for word in wanted.gpu_type.lower().replace("-", " ").split())


def _sizes(job: Job, box: Box) -> list[float]:
    """Memory of the box's GPUs of the right type, largest first; one that does not tell it counts as endless."""
    return sorted((gpu.memory or float("inf") for gpu in box.gpus if of_type(gpu, job)), reverse=True)


def _nth_largest(job: Job, box: Box) -> float:
    sizes = _sizes(job, box)
    return sizes[job.gpus - 1] if 0 < job.gpus <= len(sizes) else 0


def _has_memory(job: Job, box: Box) -> bool:
    return not job.gpus or not job.least_memory or _nth_largest(job, box) >= job.least_memory


def _has_gpus(job: Job, box: Box) -> bool:
    return job.gpus == 0 or (box.gpu_slots != 0 and len(_sizes(job, box)) >= job.gpus)


def _has_slot(job: Job, box: Box) -> bool:
    return job.gpus > 0 or box.cpu_slots > 0


_WANTS: tuple[tuple[str, Callable[[Job, Box], bool]], ...] = (
    ("box", lambda job, box: job.box in (None, box.name)),
    ("boxes", lambda job, box: job.boxes is None or box.name in job.boxes),
    ("environment", lambda job, box: job.environment is None or job.environment in box.environments),
    ("labels", lambda job, box: job.labels <= box.labels),
    ("slot", _has_slot),
    ("gpus", _has_gpus),
    ("memory", _has_memory),
)


def _missing(job: Job, boxes: Sequence[Box]) -> str:
    """What no box has; or that each has only a part of it."""
    if not boxes:
        return "no box is connected: start one with `mlflow-lmms worker`"
    lacking = [name for name, has in _WANTS if not any(has(job, box) for box in boxes)]
    if not lacking:
        return f"no one box has all that it needs: {', '.join(_needs(job))}"
    return _words(lacking[0], job, boxes)


def _needs(job: Job) -> Iterator[str]:
    if job.box:
        yield f"to be box {job.box}"
    if job.boxes is not None:
        yield f"to be one of {', '.join(sorted(job.boxes)) or 'no box'}, which have its files"
    if job.environment:
        yield f"environment {job.environment}"
    if job.labels:
        yield f"labels {', '.join(sorted(job.labels))}"
    if job.gpus:
        yield _gpus(job.gpus, job.gpu_type)
    if job.gpus and job.least_memory:
        yield f"{gib(job.least_memory)} on each"


def _words(lacking: str, job: Job, boxes: Sequence[Box]) -> str:
    if lacking == "box":
        return f"no box is called {job.box}: there are {', '.join(sorted(box.name for box in boxes))}"
    if lacking == "boxes":
        having = ", ".join(sorted(job.boxes or ())) or "no box"
        return f"its files are on {having} only: there are {', '.join(sorted(box.name for box in boxes))}"
    if lacking == "environment":
        offered = sorted(set().union(*(box.environments for box in boxes)))
        return (
            f"no box offers the environment {job.environment} (offered: {', '.join(offered) or 'none'}): "
            f"start one with `mlflow-lmms worker --environment {job.environment}=PYTHON`"
        )
    if lacking == "labels":
        return f"no box has the labels {', '.join(sorted(job.labels))}"
    if lacking == "slot":
        return "no box has a slot for work without a GPU"
    if lacking == "gpus":
        most = max(boxes, key=lambda box: (len(_sizes(job, box)), box.name))
        found = len(_sizes(job, most))
        there = f"the most that a box has is {found} ({most.name})" if found else "no box has one"
        return f"it needs {_gpus(job.gpus, job.gpu_type)} on one box, and {there}"
    return _too_little_memory(job, boxes)


def _too_little_memory(job: Job, boxes: Sequence[Box]) -> str:
    most = max(boxes, key=lambda box: (_nth_largest(job, box), box.name))
    each = "on its GPU" if job.gpus == 1 else f"on each of its {job.gpus} GPUs"
    return (
        f"its weights alone need {gib(job.least_memory or 0)} {each}, and the best that a box has is "
        f"{gib(int(_nth_largest(job, most)))} ({most.name}): ask for more GPUs, a smaller number format, or "
        "a box with larger GPUs"
    )


def _gpus(count: int, gpu_type: str | None) -> str:
    return f"{count} {f'{gpu_type} ' if gpu_type else ''}GPU{'s' if count != 1 else ''}"


def gib(memory: int) -> str:
    """Bytes in words."""
    return f"{memory / GIB:.1f} GiB"
