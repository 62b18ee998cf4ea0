"""What a run tells of all its tasks, on a real MLflow store: groups, warnings, merged files, moved scores."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from core_services import look_models_up_at
from mlflow import MlflowClient
from mlflow.entities import Run
from runner_files import FINGERPRINT, Scores, write_task

from mlflow_lmms.names import Artifact, Tag
from mlflow_lmms.reading.group_scores import GroupAggregate, GroupDefinition
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.run_summary import RunSummary

HALF: Scores = [1.0, 0.0] * 10
MOST: Scores = [1.0, 1.0, 1.0, 0.0] * 10


@pytest.fixture
def client(shared_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(shared_mlflow.parent)
    look_models_up_at(f"sqlite:///{shared_mlflow}", monkeypatch)
    return MlflowClient(f"sqlite:///{shared_mlflow}")


@pytest.fixture
def experiment(client: MlflowClient, request: pytest.FixtureRequest) -> str:
    return client.create_experiment(f"summary {request.node.name}"[:200])


@pytest.fixture
def run_id(client: MlflowClient, experiment: str) -> str:
    return start_run(client, experiment, 1000)


def start_run(client: MlflowClient, experiment: str, at: int, **tags: str) -> str:
    told = {Tag.TASKS: "t,u", Tag.MODEL: "m", Tag.MODEL_VERSION: "1", Tag.WARNINGS: "{}", **tags}
    return str(client.create_run(experiment, start_time=at, tags=told).info.run_id)


def define_groups(client: MlflowClient, run_id: str, *groups: GroupDefinition) -> None:
    """Store them with the run's request, as the server does."""
    client.log_dict(run_id, {"groups": [group.document() for group in groups]}, Artifact.REQUEST)


def stored(client: MlflowClient, run_id: str, path: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = Path(client.download_artifacts(run_id, path)).read_text()
    return json.loads(text, parse_constant=refuse)


GROUP = GroupDefinition("both", ("t", "u"), (GroupAggregate("acc", weight_by_size=True),))


def test_a_group_is_scored_once_its_members_are_there_and_again_after_a_retry(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    define_groups(client, run_id, GROUP, GroupDefinition("outer", ("both",)))
    recorder = RunRecorder(client)
    recorder.record_task(run_id, write_task(tmp_path, "t", {"acc": HALF}), 1)
    assert "both/acc" not in client.get_run(run_id).data.metrics
    (waiting,) = stored(client, run_id, Artifact.RESULTS)["groups"]["both"]
    assert waiting["value"] is None
    assert "u" in waiting["reason"]

    recorder.record_task(run_id, write_task(tmp_path, "u", {"acc": MOST}), 1)
    metrics = client.get_run(run_id).data.metrics
    assert metrics["both/acc"] == pytest.approx((0.5 * 20 + 0.75 * 40) / 60)
    assert metrics["both/acc::n"] == 60
    assert metrics["outer/acc"] == pytest.approx((0.5 + 0.75) / 2)

    RunRecorder(client).record_task(run_id, write_task(tmp_path, "t", {"acc": [1.0] * 20}), 2)
    history = client.get_metric_history(run_id, "both/acc")
    assert [metric.step for metric in history] == [1, 2]
    assert [metric.value for metric in history] == pytest.approx([40 / 60, 50 / 60])


def test_a_group_whose_members_do_not_mean_the_same_has_no_score(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    define_groups(client, run_id, GroupDefinition("both", ("t", "u")))
    recorder = RunRecorder(client)
    recorder.record_task(run_id, write_task(tmp_path, "t", {"acc": HALF}), 1)
    recorder.record_task(run_id, write_task(tmp_path, "u", {"f1": HALF}), 1)
    assert not [name for name in client.get_run(run_id).data.metrics if name.startswith("both")]
    (told,) = stored(client, run_id, Artifact.RESULTS)["groups"]["both"]
    assert "differ" in told["reason"]


def test_groups_can_be_given_by_hand(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    recorder = RunRecorder(client)
    for task in ("t", "u"):
        recorder.record_task(run_id, write_task(tmp_path, task, {"acc": HALF}), 1)
    recorder.record_groups(run_id, [GROUP])
    assert client.get_run(run_id).data.metrics["both/acc"] == 0.5


@pytest.mark.parametrize("request_text", ["{", "[]", '{"groups": [{}]}', '{"groups": 7}'])
def test_a_request_without_sound_groups_costs_no_result(
    client: MlflowClient, run_id: str, tmp_path: Path, request_text: str
) -> None:
    client.log_text(run_id, request_text, Artifact.REQUEST)
    RunRecorder(client).record_task(run_id, write_task(tmp_path, "t", {"acc": HALF}), 1)
    assert client.get_run(run_id).data.metrics["t/acc"] == 0.5


def test_warnings_of_all_tasks_stand_in_one_tag(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    empty = {"name": "empty_responses", "message": "9 of 20", "count": 9, "of": 20, "examples": ["document 3"]}
    recorder = RunRecorder(client)
    recorder.record_task(run_id, write_task(tmp_path, "t", {"acc": HALF}, warnings=[empty, empty]), 1)
    recorder.record_task(run_id, write_task(tmp_path, "sound", {"acc": HALF}), 1)
    partial = {"name": "partial_run", "message": "20 of 100"}
    recorder.record_task(run_id, write_task(tmp_path, "u", {"acc": HALF}, documents=100, warnings=[partial]), 1)
    tags = client.get_run(run_id).data.tags
    assert json.loads(tags[Tag.WARNINGS]) == {"t": ["empty_responses"], "u": ["partial_run"]}
    primary = json.loads(tags[Tag.primary("u")])
    assert (primary["warnings"], primary["partial"]) == (["partial_run"], True)
    assert stored(client, run_id, Artifact.task_result("t"))["warnings"][0]["examples"] == ["document 3"]


def test_more_warnings_than_a_tag_holds_are_cut(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    recorder = RunRecorder(client)
    warning = {"name": "w" * 4000, "message": ""}
    for task in ("t", "u"):
        recorder.record_task(run_id, write_task(tmp_path, task, {"acc": HALF}, warnings=[warning]), 1)
    assert list(json.loads(client.get_run(run_id).data.tags[Tag.WARNINGS])) == ["t"]


def test_numbers_that_json_does_not_know_become_null(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    raw = {"acc,none": 0.5, "f1,none": float("nan"), "deep": [{"x": float("inf")}]}
    RunRecorder(client).record_task(run_id, write_task(tmp_path, "t", {"acc": HALF}, raw=raw), 1)
    expected = {"acc,none": 0.5, "f1,none": None, "deep": [{"x": None}]}
    assert stored(client, run_id, Artifact.RESULTS)["results"]["t"] == expected
    assert stored(client, run_id, Artifact.task_result("t"))["raw"] == expected


def test_errored_samples_leave_both_numbers(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    dropped = {
        "metric": "score",
        "filter": "none",
        "value": 60.0,
        "native": 50.0,
        "factor": 100.0,
        "per_sample": True,
        "mean": 0.6,
        "sd": 0.5,
        "n": 18,
        "errored": 2,
    }
    stability = {"k": 4, "metric": "score", "filter": "none", "EA": 0.5, "CA": None, "IV": 0.25, "CR": 0.75}
    file = write_task(tmp_path, "t", {}, metrics=[dropped], stability=stability)
    RunRecorder(client).record_task(run_id, file, 1)
    metrics = client.get_run(run_id).data.metrics
    assert (metrics["t/score"], metrics["t/score::native"]) == (60.0, 50.0)
    assert (metrics["t/score::errored"], metrics["t/score::n"]) == (2, 18)
    assert 0 < metrics["t/score::ci_low"] < 60 < metrics["t/score::ci_high"] < 100
    assert {name: metrics[f"t/score::{name}"] for name in ("EA", "IV", "CR")} == {"EA": 0.5, "IV": 0.25, "CR": 0.75}
    assert "t/score::CA" not in metrics


def test_groups_by_what_a_model_answered_are_not_its_worst(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    slices = [
        {"dimension": "response_length", "value": "0–3", "n": 10, "score": 0.0},
        {"dimension": "kind", "value": "a", "n": 10, "score": 0.5},
        {"dimension": "kind", "value": "b", "n": 10, "score": 0.75},
    ]
    sources = {"response_length": {"source": "feature", "outcome": True}}
    file = write_task(tmp_path, "t", {"acc": HALF}, slices=slices, dimension_sources=sources)
    RunRecorder(client).record_task(run_id, file, 1)
    run = client.get_run(run_id)
    assert run.data.tags[Tag.worst("t")] == "kind=a"
    assert not [name for name in run.data.metrics if "response_length" in name]
    rows = pq.read_table(client.download_artifacts(run_id, Artifact.SLICES)).to_pylist()
    assert {row["dimension"] for row in rows} == {"response_length", "kind"}
    assert all(row["low"] < row["high"] and row["method"] == "wilson" for row in rows)


def test_tasks_that_are_recorded_at_once_all_stand_in_the_merged_files(
    client: MlflowClient, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, each of which has looked at the run before the other stored its task."""
    together = threading.Barrier(2, timeout=60)
    look = RunSummary._stored
    early: set[str] = set()

    def stored_then(self: RunSummary) -> dict[str, int]:
        found = look(self)
        task = threading.current_thread().name
        if task in early:
            return found
        early.add(task)
        together.wait()
        return {path: size for path, size in found.items() if path == Artifact.task_result(task)}

    monkeypatch.setattr(RunSummary, "_stored", stored_then)
    define_groups(client, run_id, GROUP)
    threads = [
        threading.Thread(
            target=RunRecorder(client).record_task,
            args=(run_id, write_task(tmp_path / task, task, {"acc": HALF}), 1),
            name=task,
        )
        for task in ("t", "u")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert set(stored(client, run_id, Artifact.RESULTS)["results"]) == {"t", "u"}
    assert client.get_run(run_id).data.metrics["both/acc"] == 0.5


def moved(client: MlflowClient, experiment: str, folder: Path, later: Scores, **fields: Any) -> Run:
    """Record a task twice, in an earlier run and in a later one with other scores of the same answers."""
    for at, scores in ((1000, HALF), (2000, later)):
        run_id = start_run(client, experiment, at)
        file = write_task(folder / str(at), "t", {"acc": scores}, **(fields if at == 2000 else {}))
        RunRecorder(client).record_task(run_id, file, 1)
    return client.get_run(run_id)


def test_a_score_that_moved_while_the_answers_did_not_is_told(
    client: MlflowClient, experiment: str, tmp_path: Path
) -> None:
    run = moved(client, experiment, tmp_path, [1.0] * 19 + [0.0])
    assert json.loads(run.data.tags[Tag.WARNINGS]) == {"t": ["score_moved"]}
    (warning,) = stored(client, run.info.run_id, Artifact.task_result("t"))["warnings"]
    assert (warning["count"], warning["of"]) == (20, 20)
    assert "0.5" in warning["message"]
    assert json.loads(run.data.tags[Tag.primary("t")])["warnings"] == ["score_moved"]


def test_the_same_score_and_another_thing_are_no_moved_scores(
    client: MlflowClient, experiment: str, tmp_path: Path
) -> None:
    assert json.loads(moved(client, experiment, tmp_path / "same", HALF).data.tags[Tag.WARNINGS]) == {}
    other = {**FINGERPRINT, "generation": "another"}
    changed = moved(client, experiment, tmp_path / "other", [1.0] * 20, fingerprint=other)
    assert json.loads(changed.data.tags[Tag.WARNINGS]) == {}


def test_earlier_results_that_cannot_be_read_cost_nothing(
    client: MlflowClient, experiment: str, tmp_path: Path
) -> None:
    broken = start_run(client, experiment, 500)
    RunRecorder(client).record_task(broken, write_task(tmp_path / "b", "t", {"acc": [0.0] * 20}), 1)
    client.log_text(broken, "no table", Artifact.samples("t"))
    later = start_run(client, experiment, 3000)
    RunRecorder(client).record_task(later, write_task(tmp_path / "l", "t", {"acc": [1.0] * 20}), 1)
    run = client.get_run(later)
    assert run.data.metrics["t/acc"] == 1.0
    assert json.loads(run.data.tags[Tag.WARNINGS]) == {}
