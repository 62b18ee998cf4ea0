"""Puts the server's parts together, once per process."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_lmms.board_cells import BoardCells
from mlflow_lmms.board_costs import BoardCosts
from mlflow_lmms.board_narrowing import Narrower
from mlflow_lmms.board_rows import BoardRows
from mlflow_lmms.board_service import Boards
from mlflow_lmms.box_admin import BoxAdmin
from mlflow_lmms.catalogue import Catalogue, read_catalogue
from mlflow_lmms.corrections import Corrections
from mlflow_lmms.database import database_url, open_database
from mlflow_lmms.demand_estimates import DemandEstimates
from mlflow_lmms.errors import NotFoundError, UnavailableError
from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.fetch_orders import FetchOrders
from mlflow_lmms.fleet_advice import FleetAdvice
from mlflow_lmms.fleet_orders import FleetOrders
from mlflow_lmms.fleet_view import FleetView
from mlflow_lmms.flips import Flips
from mlflow_lmms.gpu_use import GpuUse
from mlflow_lmms.lifecycle import Lifecycle
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.model_facts import RegistryFacts
from mlflow_lmms.notes import Notes
from mlflow_lmms.prefetch import FetchNeeds, Prefetch
from mlflow_lmms.quotas import QuotaStore
from mlflow_lmms.reaper import Reaper
from mlflow_lmms.recorded_run import has_results, recorded_evaluation
from mlflow_lmms.result_correction import ResultCorrection
from mlflow_lmms.run_mirror import RunMirror
from mlflow_lmms.run_reader import FetchArtifact, RunReader
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.saved_view_store import SavedViewStore
from mlflow_lmms.scheduler import Scheduler
from mlflow_lmms.score import Score
from mlflow_lmms.score_feed import ScoreFeed
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.settings import Settings
from mlflow_lmms.spreading import Spreading
from mlflow_lmms.states import State
from mlflow_lmms.submission import Submission
from mlflow_lmms.suite_store import SuiteStore
from mlflow_lmms.task_result import TaskWarning


@dataclass(frozen=True)
class Services:
    """What the server's doors call."""

    settings: Settings
    client: MlflowClient
    store: EvaluationStore
    queue: EvaluationQueue
    events: EventLog
    lifecycle: Lifecycle
    submission: Submission
    scores: ScoreIndex
    feed: ScoreFeed
    run_tables: RunTables
    reader: RunReader
    boards: Boards
    reaper: Reaper
    fleet: FleetView
    box_admin: BoxAdmin
    quotas: QuotaStore
    gpu_use: GpuUse
    scheduler: Scheduler
    catalogue: Callable[[], Catalogue]
    suites: SuiteStore
    views: SavedViewStore
    notes: Notes
    corrections: Corrections
    result_correction: ResultCorrection
    flips: Flips

    def evaluation(self, run_id: str) -> Evaluation:
        """The evaluation of this run: from our tables, or told by the MLflow run where no queue of ours knows it.

        Raises:
            NotFoundError: there is no such run, it holds no evaluation, or it was deleted.
        """
        try:
            return self.store.get(run_id)
        except NotFoundError:
            run = self._run(run_id)
            if run is None or run.info.lifecycle_stage == "deleted" or not has_results(run.data.tags):
                raise
            return recorded_evaluation(run)

    def evaluations(
        self,
        *,
        experiment_ids: Collection[str] | None = None,
        states: Collection[State] | None = None,
        model: str | None = None,
        before: float | None = None,
        limit: int = 100,
    ) -> list[Evaluation]:
        """Evaluations, newest first, also those that no queue of ours knows.

        `experiment_ids` None means all; an empty collection means none.
        """
        narrowed: dict[str, Any] = {
            "experiment_ids": experiment_ids,
            "model": model,
            "before": before,
            "limit": limit,
        }
        found = self.store.search(states=states, **narrowed)
        if states is None or State.FINISHED in states:
            found += [recorded_evaluation(run) for run in self.scores.recorded_runs(**narrowed)]
        return sorted(found, key=lambda evaluation: (-evaluation.created_at, evaluation.run_id))[:limit]

    def _run(self, run_id: str) -> Run | None:
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise UnavailableError(f"MLflow does not hand out run {run_id}: {error.message}") from None


def build_services(
    settings: Settings,
    *,
    backend_store_uri: str,
    registry_uri: str | None,
    fetch_artifact: FetchArtifact,
    store_artifact: Callable[[str, Path, str], None],
) -> Services:
    """Open the database (migrating our tables) and build the services on it.

    Args:
        fetch_artifact: brings an artifact of a run (run id, path) to a local file.
        store_artifact: puts a local file into a run's artifact folder (run id, file, folder).
    """
    store = EvaluationStore(open_database(database_url(settings.database_url, backend_store_uri)))
    store.migrate()
    client = MlflowClient(tracking_uri=backend_store_uri, registry_uri=registry_uri)
    queue = EvaluationQueue(settings.redis_address)
    events = EventLog(settings.redis_address)
    mirror = RunMirror(client)
    runs = RunTables(backend_store_uri)
    scores = ScoreIndex(store, runs, BoardCells())
    feed = ScoreFeed(store, scores, runs, settings)
    reader, corrections = RunReader(fetch_artifact), Corrections(store.engine)
    catalogue = _once(lambda: read_catalogue(settings.task_folders))
    fleet, orders = FleetView(settings.redis_address), FleetOrders(settings.redis_address)
    use, quotas, box_admin = GpuUse(store.engine), QuotaStore(store.engine), BoxAdmin(store.engine, fleet, orders)
    demands = DemandEstimates(store.engine, use)
    lifecycle = Lifecycle(store, queue, events, mirror, settings, scores.refresh, job_of=demands.job_of, uses=use)
    suites = SuiteStore(store.engine)
    advice = FleetAdvice(fleet, quotas, demands.job_of, settings)
    submission = Submission(
        store, client, queue, lifecycle, catalogue, store_artifact, settings, suites, advice.warnings
    )
    scheduler = Scheduler(
        store=store,
        queue=queue,
        fleet=fleet,
        orders=orders,
        box_admin=box_admin,
        quotas=quotas,
        use=use,
        spreading=Spreading(store, queue, demands, settings),
        prefetch=Prefetch(FetchOrders(settings.redis_address), FetchNeeds(store, catalogue), settings),
        lifecycle=lifecycle,
        settings=settings,
    )
    return Services(
        settings=settings,
        client=client,
        store=store,
        queue=queue,
        events=events,
        lifecycle=lifecycle,
        submission=submission,
        scores=scores,
        feed=feed,
        run_tables=runs,
        reader=reader,
        boards=Boards(
            BoardRows(store.engine),
            Narrower(catalogue, RegistryFacts(client), lambda name: suites.get(name).suite),
            reader.vector,
            partial(_warnings, corrections, reader),
            BoardCosts(store.engine, reader.task_result),
        ),
        reaper=Reaper(store, lifecycle, mirror, settings),
        catalogue=catalogue,
        suites=suites,
        views=SavedViewStore(store.engine),
        notes=Notes(store.engine),
        corrections=corrections,
        result_correction=ResultCorrection(corrections, scores, client, feed.note_run),
        flips=Flips(reader, fetch_artifact),
        fleet=fleet,
        box_admin=box_admin,
        quotas=quotas,
        gpu_use=use,
        scheduler=scheduler,
    )


def _warnings(corrections: Corrections, reader: RunReader, score: Score) -> tuple[TaskWarning, ...]:
    """What may be wrong with a result: who corrected it, and what its own file says."""
    told = corrections.warnings(score)
    names = {warning.name for warning in told}
    return (*told, *(warning for warning in reader.warnings(score) if warning.name not in names))


def _once(read: Callable[[], Catalogue]) -> Callable[[], Catalogue]:
    """Read the catalogue at the first call and keep it; reading takes about a second."""
    lock, kept = Lock(), list[Catalogue]()

    def get() -> Catalogue:
        with lock:
            if not kept:
                kept.append(read())
            return kept[0]

    return get
