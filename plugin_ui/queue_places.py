"""Where waiting runs stand in the queue, and why they wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlflow_lmms.planner.fleet import Wait
from mlflow_lmms.queue_keys import split_job_id
from plugin_ui.fleet_status import without_names


def queue_places(waiting: Iterable[str]) -> dict[str, int]:
    """Place of each run (1 is next) given the waiting jobs in order; of several parts the first counts."""
    places: dict[str, int] = {}
    for job in waiting:
        places.setdefault(split_job_id(job)[0], len(places) + 1)
    return places


def queue_waits(waiting: Iterable[str], waits: Mapping[str, Wait]) -> dict[str, Wait]:
    """Why each run waits, without naming others; of several parts the first in the queue counts."""
    found: dict[str, Wait] = {}
    for job in waiting:
        if job in waits:
            wait = waits[job]
            found.setdefault(split_job_id(job)[0], replace(wait, reason=without_names(wait.reason)))
    return found
