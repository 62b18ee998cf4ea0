"""The score index: what the recorder wrote into MLflow runs is what boards are made of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from runner_files import FINGERPRINT, Scores, write_task
from sqlalchemy import select

from mlflow_lmms.board_cells import BoardCells
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import ConfigurationError, NotFoundError, UnavailableError
from mlflow_lmms.evaluation_json import evaluation_json
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.lifecycle import Claim, Owner
from mlflow_lmms.names import Tag, escape
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.score import Score
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.services import Services
from mlflow_lmms.sql.schema import IndexedRunRow, ScoreRow
from mlflow_lmms.work_order import PROTOCOL

HALF: Scores = [1.0, 0.0] * 10
_OF_REQUEST = EvaluationRequest.model_fields.keys() - {"primary"}  # which is the result's here


class Worker:
    """Submits evaluations and delivers their results, as a worker does."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services = services
        self.folder = folder
        self.recorder = RunRecorder(services.client)

    def submit(self, *tasks: str, **fields: Any) -> str:
        asked = {"adapter": "dummy", "tasks": tasks or ("ai2d",)} | fields
        return self.services.submission.submit(EvaluationRequest.parse(asked)).run_id

    def claim(self, run_id: str) -> Owner:
        token = self.services.queue.next_token()
        claim = Claim(protocol=PROTOCOL, run_id=run_id, part="0", token=token, box="box", slot="cpu0")
        self.services.lifecycle.claim(claim)
        return Owner(run_id, "0", token)

    def deliver(self, owner: Owner, task: str, scores: Scores, **fields: Any) -> None:
        file = write_task(self.folder / owner.run_id, task, {"acc": scores}, **fields)
        self.services.lifecycle.started(owner, task)
        self.services.lifecycle.recording(owner, task)
        attempt = self.services.store.get(owner.run_id).task(task).attempt
        result = self.recorder.record_task(owner.run_id, file, attempt)
        self.services.lifecycle.task_finished(
            owner, task, samples=result.samples, metric="acc", score=result.metrics[0].value
        )

    def evaluate(self, task: str, scores: Scores, **fields: Any) -> str:
        """A whole evaluation of one task."""
        request = {key: fields.pop(key) for key in list(fields) if key in _OF_REQUEST}
        run_id = self.submit(task, **request)
        self.deliver(self.claim(run_id), task, scores, **fields)
        return run_id


@pytest.fixture
def worker(services: Services, tmp_path: Path) -> Worker:
    return Worker(services, tmp_path / "out")


def rows(services: Services) -> Sequence[ScoreRow]:
    with services.store.session() as session:
        return list(session.scalars(select(ScoreRow).order_by(ScoreRow.metric, ScoreRow.dimension, ScoreRow.slice)))


def values(scores: Sequence[Score]) -> list[tuple[str, str, float]]:
    return sorted((score.model, score.task, score.value) for score in scores)


def test_a_finished_task_is_on_the_board_with_its_interval(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF, model_args="pretrained=a", suite="s")
    (score,) = services.scores.primary_scores()
    metrics = services.client.get_run(run_id).data.metrics
    assert (score.run_id, score.model, score.suite, score.task) == (run_id, "a", "s", "ai2d")
    assert (score.metric, score.filter, score.value, score.n) == ("acc", "none", 0.5, 20)
    assert (score.low, score.high) == (metrics["ai2d/acc::ci_low"], metrics["ai2d/acc::ci_high"])
    assert (score.higher_is_better, score.partial, score.attempt) == (True, False, 1)
    assert score.fingerprint == FINGERPRINT


def test_slices_and_further_metrics_are_indexed_but_are_no_primary_scores(worker: Worker, services: Services) -> None:
    slices = [{"dimension": "digit", "value": value, "n": 10, "score": 0.5} for value in ("0", "名/x")]
    corpus = {"metric": "f1", "filter": "strict-match", "value": 0.75, "n": 20}
    worker.evaluate("ai2d", HALF, slices=slices, metrics=[corpus])
    found = [(r.metric, r.filter, r.dimension, r.slice, r.value, r.n, r.primary) for r in rows(services)]
    assert found == [
        ("acc", "none", "", "", 0.5, 20, True),
        ("acc", "none", "digit", "0", 0.5, 10, True),
        ("acc", "none", "digit", "名/x", 0.5, 10, True),
        ("f1", "strict-match", "", "", 0.75, 20, False),
    ]
    assert len(services.scores.primary_scores()) == 1


def test_a_run_in_work_is_there_with_what_it_has(worker: Worker, services: Services) -> None:
    owner = worker.claim(worker.submit("ai2d", "mmmu_val"))
    worker.deliver(owner, "ai2d", HALF)
    assert [score.task for score in services.scores.primary_scores()] == ["ai2d"]
    worker.deliver(owner, "mmmu_val", HALF)
    assert [score.task for score in services.scores.primary_scores()] == ["ai2d", "mmmu_val"]


def test_refreshing_again_changes_nothing(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    before = services.scores.primary_scores()
    services.scores.refresh(services.store.get(run_id))
    assert services.scores.primary_scores() == before


def test_of_refreshes_at_once_none_fails_and_none_is_lost(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    evaluation = services.store.get(run_id)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(services.scores.refresh, [evaluation] * 8))
    assert len(services.scores.primary_scores()) == 1


def test_the_score_of_a_new_attempt_takes_the_old_ones_place(worker: Worker, services: Services) -> None:
    run_id = worker.submit("ai2d", "mmmu_val")
    owner = worker.claim(run_id)
    worker.deliver(owner, "ai2d", HALF)
    services.lifecycle.part_finished(owner)
    file = write_task(worker.folder / "again", "ai2d", {"acc": [1.0] * 20})
    worker.recorder.record_task(run_id, file, 2)
    services.scores.refresh(services.store.get(run_id))
    assert [score.value for score in services.scores.primary_scores()] == [1.0]


def test_boards_are_narrowed(worker: Worker, services: Services) -> None:
    worker.evaluate("ai2d", HALF, model_args="pretrained=a", suite="s")
    worker.evaluate("mmmu_val", HALF, model_args="pretrained=b", suite="s", experiment="index other")
    worker.evaluate("mme", HALF, model_args="pretrained=c", suite="t")
    experiments = {found.name: found.experiment_id for found in services.client.search_experiments()}
    own, other = experiments["lmms-eval"], experiments["index other"]

    def found(**query: Any) -> list[str]:
        return sorted(score.model for score in services.scores.primary_scores(**query))

    assert found() == ["a", "b", "c"]
    assert found(suite="s") == ["a", "b"]
    assert found(experiment_ids=[own]) == ["a", "c"]
    assert found(experiment_ids=[own, other], tasks=["mme", "mmmu_val"]) == ["b", "c"]
    assert found(experiment_ids=[]) == []
    assert services.scores.suites(None) == ["s", "t"]
    assert services.scores.suites([other]) == ["s"]


def test_a_deleted_run_leaves_the_board_and_comes_back_restored(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    services.client.delete_run(run_id)
    services.scores.refresh_run(run_id)
    assert services.scores.primary_scores() == []
    services.client.restore_run(run_id)
    services.scores.refresh_run(run_id)
    assert len(services.scores.primary_scores()) == 1


def test_more_runs_than_are_asked_for_at_once_are_all_found(
    worker: Worker, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_lmms.run_tables._AT_ONCE", 2)
    made = [worker.evaluate("ai2d", HALF, model_args=f"pretrained=m{number}") for number in range(5)]
    assert services.scores.refresh_runs(made) == 5
    assert sorted(score.run_id for score in services.scores.primary_scores()) == sorted(made)
    assert services.run_tables.with_results(made) == set(made)


def test_the_newest_is_the_one_recorded_last_whenever_the_index_is_refreshed(
    worker: Worker, services: Services
) -> None:
    first = worker.evaluate("ai2d", HALF, model_args="pretrained=a")
    second = worker.evaluate("ai2d", [1.0] * 20, model_args="pretrained=a")
    services.scores.refresh(services.store.get(first))
    newest = max(services.scores.primary_scores(), key=lambda score: score.recorded_at)
    assert newest.run_id == second


def test_metrics_of_somebody_else_do_no_harm(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    for name, value in {
        "loss": 1.0,
        "other_task/acc": 1.0,
        ".x110000./acc": 1.0,
        "ai2d/acc/digit:nan": float("nan"),
        "ai2d/acc/digit:inf": float("inf"),
    }.items():
        services.client.log_metric(run_id, name, value)
    services.scores.refresh(services.store.get(run_id))
    assert values(services.scores.primary_scores()) == [("dummy", "ai2d", 0.5)]


@pytest.mark.parametrize("tag", [Tag.primary("ai2d"), Tag.fingerprint("ai2d")])
@pytest.mark.parametrize("text", ["", "not json", "[]", "3"])
def test_tags_that_somebody_spoiled_do_no_harm(worker: Worker, services: Services, tag: str, text: str) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    services.client.set_tag(run_id, tag, text)
    services.scores.refresh(services.store.get(run_id))
    assert len(services.scores.primary_scores()) == (0 if tag == Tag.primary("ai2d") else 1)


def test_a_task_without_primary_metric_is_on_no_board(worker: Worker, services: Services) -> None:
    worker.evaluate("ai2d", HALF, primary=None)
    assert services.scores.primary_scores() == []
    assert len(rows(services)) == 1


def test_a_run_of_part_of_the_documents_is_marked(worker: Worker, services: Services) -> None:
    worker.evaluate("ai2d", HALF, limit=20, fingerprint=FINGERPRINT | {"limit": 20})
    assert [score.partial for score in services.scores.primary_scores()] == [True]


@pytest.mark.parametrize(("warnings", "partial"), [(["partial_run"], True), (["samples_missing"], False)])
def test_a_result_says_by_its_warnings_whether_it_is_partial(
    worker: Worker, services: Services, warnings: list[str], partial: bool
) -> None:
    told = [{"name": name, "message": "So it is."} for name in warnings]
    # Documents of its own: beside the other tests' results it would be a score that moved.
    origin = FINGERPRINT | {"origin": "lmms-eval files", "dataset": f"of {warnings}"}
    worker.evaluate("ai2d", HALF, warnings=told, fingerprint=origin, documents=1000)
    assert [(s.partial, s.warnings) for s in services.scores.primary_scores()] == [(partial, tuple(warnings))]


def test_a_run_that_is_gone_leaves_nothing(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    with closing(sqlite3.connect(services.client.tracking_uri.removeprefix("sqlite:///"))) as database, database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run_id])
    assert services.scores.refresh_run(run_id) == 0
    assert rows(services) == []
    with services.store.session() as session:
        assert session.get(IndexedRunRow, run_id) is None


def test_while_mlflows_database_does_not_answer_the_index_stays(worker: Worker, services: Services) -> None:
    run_id = worker.evaluate("ai2d", HALF)
    absent = ScoreIndex(services.store, RunTables("sqlite:////nowhere/at/all.db"), BoardCells())
    with pytest.raises(UnavailableError, match="cannot be read"):
        absent.refresh_run(run_id)
    assert len(services.scores.primary_scores()) == 1


@pytest.mark.parametrize("uri", ["./mlruns", "/tmp/mlruns", ""])
def test_a_folder_is_no_backend_store(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="--backend-store-uri"):
        RunTables(uri)


def record(worker: Worker, folder: str, tags: dict[str, str], **fields: Any) -> str:
    """A run that no queue knows, as the importer or a client makes one."""
    client = worker.services.client
    experiment = client.get_experiment_by_name("lmms-eval") or client.get_experiment("0")
    run_id = str(client.create_run(experiment.experiment_id, run_name=folder, tags=tags).info.run_id)
    worker.recorder.record_task(run_id, write_task(worker.folder / folder, "ai2d", {"acc": HALF}, **fields), 1)
    client.set_terminated(run_id)
    return run_id


def test_a_run_that_no_queue_knows_is_indexed_from_itself_alone(worker: Worker, services: Services) -> None:
    tags = {Tag.MODEL: "org/m", Tag.MODEL_VERSION: "3", Tag.SOURCE: "import", Tag.SUITE: "old", Tag.TASKS: "ai2d"}
    run_id = record(worker, "imported", tags)
    assert services.scores.refresh_run(run_id) == 1
    (score,) = services.scores.primary_scores()
    assert (score.run_id, score.model, score.suite, score.source) == (run_id, "org/m v3", "old", "import")
    assert (score.value, score.n, score.partial, score.attempt, score.fingerprint) == (0.5, 20, False, 1, FINGERPRINT)
    evaluation = services.evaluation(run_id)
    (task,) = evaluation.tasks
    assert (evaluation.source, evaluation.state, evaluation.model) == ("import", "finished", "org/m v3")
    assert (task.task, task.state, task.score, task.samples, task.metric) == ("ai2d", "finished", 0.5, 20, "acc")
    assert not evaluation.queued_here and evaluation_json(evaluation)["command"] is None


def test_a_run_of_somebodys_own_program_goes_by_its_name(worker: Worker, services: Services) -> None:
    services.scores.refresh_run(record(worker, "my experiment", {}))
    (score,) = services.scores.primary_scores()
    assert (score.model, score.suite, score.source) == ("my experiment", "ai2d", "client")


def test_an_older_run_over_a_part_is_known_by_its_params(worker: Worker, services: Services) -> None:
    run_id = record(worker, "part", {Tag.SOURCE: "import"})
    older = {"metric": "acc", "filter": "none", "higher_is_better": True, "reason": "the only one"}
    services.client.set_tag(run_id, Tag.primary("ai2d"), json.dumps(older))
    services.client.log_param(run_id, "limit", "20")
    services.scores.refresh_run(run_id)
    assert [score.partial for score in services.scores.primary_scores()] == [True]


def test_what_the_primary_tag_tells_of_scale_and_warnings_is_indexed(worker: Worker, services: Services) -> None:
    run_id = record(worker, "told", {Tag.SOURCE: "import"})
    told = {"metric": "acc", "filter": "none", "higher_is_better": True, "factor": 100, "scale": {"high": 100.0}}
    told |= {"warnings": ["below_chance"], "partial": True}
    services.client.set_tag(run_id, Tag.primary("ai2d"), json.dumps(told))
    services.scores.refresh_run(run_id)
    (score,) = services.scores.primary_scores()
    assert (score.factor, score.scale_high, score.warnings, score.partial) == (100.0, 100.0, ("below_chance",), True)


@pytest.mark.parametrize(
    "told", [{"factor": "x", "scale": "y", "warnings": 3, "recorded_at": []}, {"factor": float("nan"), "scale": [1]}]
)
def test_a_primary_tag_that_somebody_spoiled_in_part_does_no_harm(
    worker: Worker, services: Services, told: dict[str, Any]
) -> None:
    run_id = record(worker, "spoiled", {Tag.SOURCE: "import"})
    tag = {"metric": "acc", "filter": "none", "higher_is_better": "yes"} | told
    services.client.set_tag(run_id, Tag.primary("ai2d"), json.dumps(tag))
    services.scores.refresh_run(run_id)
    (score,) = services.scores.primary_scores()
    assert (score.factor, score.scale_high, score.warnings, score.higher_is_better) == (None, None, (), None)


def test_published_scores_are_indexed_with_their_source(worker: Worker, services: Services) -> None:
    tags = {Tag.MODEL: "org/m", Tag.SOURCE: "reported", Tag.REPORTED_SOURCE: "a paper"}
    tags[Tag.primary("ai2d")] = json.dumps({"metric": "acc", "filter": "none", "higher_is_better": True})
    run_id = services.client.create_run("0", tags=tags).info.run_id
    services.client.log_metric(run_id, "ai2d/acc", 0.83)
    services.scores.refresh_run(run_id)
    (score,) = services.scores.primary_scores()
    assert (score.source, score.reported_source, score.value, score.n) == ("reported", "a paper", 0.83, None)


def test_of_a_deleted_run_nothing_stays(worker: Worker, services: Services) -> None:
    run_id = record(worker, "imported", {Tag.SOURCE: "import"})
    services.scores.refresh_run(run_id)
    services.client.delete_run(run_id)
    with pytest.raises(NotFoundError):
        services.evaluation(run_id)
    assert services.scores.refresh_run(run_id) == 0
    assert services.scores.primary_scores() == []
    assert rows(services) == []


def test_a_run_without_results_is_no_evaluation(services: Services) -> None:
    run_id = services.client.create_run("0", tags={"mlflow.note": "x"}).info.run_id
    services.client.log_metric(run_id, "ai2d/acc", 0.5)
    assert services.scores.refresh_run(run_id) == 0
    with pytest.raises(NotFoundError, match=run_id):
        services.evaluation(run_id)


def test_recorded_runs_are_listed_newest_first_over_gaps_of_deleted_ones(worker: Worker, services: Services) -> None:
    worker.evaluate("ai2d", HALF)
    made = []
    for number in range(5):
        run_id = record(worker, f"r{number}", {Tag.SOURCE: "import", Tag.MODEL: f"m{number % 2}"})
        services.scores.refresh_run(run_id)
        made.append(run_id)
    services.client.delete_run(made[3])

    def listed(**query: Any) -> list[str]:
        return [str(run.info.run_id) for run in services.scores.recorded_runs(**query)]

    assert listed() == [made[4], made[2], made[1], made[0]]
    assert listed(limit=2) == [made[4], made[2]]
    assert listed(model="m1") == [made[1]]
    assert listed(experiment_ids=[]) == []
    before = services.client.get_run(made[2]).info.start_time / 1000
    assert listed(before=before, limit=1) == [made[1]]
    everything = services.evaluations(limit=3)
    assert [e.run_id for e in everything[:2]] == [made[4], made[2]] and len(everything) == 3


@pytest.mark.postgres
def test_postgresql_takes_long_names_and_refreshes_at_once(
    worker: Worker, services: Services, empty_postgres_url: str
) -> None:
    slices = [{"dimension": "d" * 300, "value": "名" * 300 + str(n), "n": 1, "score": 0.5} for n in range(3)]
    run_id = worker.evaluate("ai2d", HALF, slices=slices)
    assert len(escape("名" * 300)) > 250
    store = EvaluationStore(open_database(empty_postgres_url))
    store.migrate()
    store.add(services.store.get(run_id))
    index = ScoreIndex(store, services.run_tables, BoardCells())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(index.refresh, [services.store.get(run_id)] * 8))
    assert len(index.primary_scores()) == 1
    with store.session() as session:
        assert len(session.scalars(select(ScoreRow)).all()) == 4
    store.engine.dispose()
