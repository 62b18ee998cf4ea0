"""Holds jobs back while a box fetches their files: before a job gets GPUs, so that no GPU waits for a network.

It looks up what jobs load from elsewhere, and carries decisions (`fetch_choice`) to the boxes (`fetch_orders`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.fetch_choice import FetchChoice, Held
from mlflow_lmms.fetch_items import FetchItem, fetch_items
from mlflow_lmms.fetch_orders import FetchOrders
from mlflow_lmms.planner.fleet import FleetState, Job
from mlflow_lmms.settings import Settings

_MOST_KNOWN = 10_000

Needs = Callable[[Job], tuple[FetchItem, ...]]


class FetchNeeds:
    """What jobs load from elsewhere, looked up once each."""

    def __init__(self, store: EvaluationStore, catalogue: Callable[[], Catalogue]) -> None:
        self._store = store
        self._catalogue = catalogue
        self._known: dict[tuple[str, int], tuple[FetchItem, ...]] = {}

    def __call__(self, job: Job) -> tuple[FetchItem, ...]:
        """The items of one job, none when its run is gone."""
        key = (job.id, job.attempts)
        if key not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[key] = self._look_up(job)
        return self._known[key]

    def _look_up(self, job: Job) -> tuple[FetchItem, ...]:
        try:
            evaluation = self._store.get(job.run)
        except NotFoundError:
            return ()
        known = self._catalogue().tasks
        tasks = [known[task.task] for task in evaluation.tasks_of(job.part) if task.task in known]
        return fetch_items(evaluation.resolved, tasks, evaluation.request.secrets, job.environment)


class Prefetch:
    """Holds jobs back while their files are fetched."""

    def __init__(self, orders: FetchOrders, needs: Needs, settings: Settings) -> None:
        self._orders = orders
        self._needs = needs
        self._settings = settings

    def hold(self, state: FleetState, caches: Mapping[str, str], now: float) -> Held:
        """Order what is to be fetched; `caches` are the download caches of the boxes that are connected.

        Raises:
            UnavailableError: the queue server does not answer.
        """
        if not self._settings.prefetch:
            return Held(state)
        needs = {job.id: items for job in state.jobs if job.gpus > 0 and (items := self._needs(job))}
        fetches = self._orders.read(caches)
        choice = FetchChoice(state, caches, fetches, needs, self._settings.prefetch_limit_s, now)
        held = choice.decide()
        for box in caches:
            if choice.orders.get(box) or fetches.orders.get(box):  # those that stand are written again: they run out
                self._orders.write(box, choice.orders.get(box, {}))
        return held

    def withdraw(self) -> None:
        """Nothing waits any more: let no box fetch on.

        Raises:
            UnavailableError: the queue server does not answer.
        """
        self._orders.clear()
