"""Where waiting runs stand in the queue."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow_lmms.evaluation_queue import split_job_id


def queue_places(waiting: Iterable[str]) -> dict[str, int]:
    """Place of each run (1 is next) given the waiting jobs in order; of several parts the first counts."""
    places: dict[str, int] = {}
    for job in waiting:
        places.setdefault(split_job_id(job)[0], len(places) + 1)
    return places
