"""Results written into runs of a real MLflow store, under the names that the design gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from core_services import look_models_up_at
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from runner_files import FINGERPRINT, Scores, write_task

from mlflow_lmms.analysis.mean_interval import mean_interval
from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.names import NAME_LIMIT, Artifact, MetricName, Tag, was_cut
from mlflow_lmms.registry import ModelDescription, ModelTag, register_model
from mlflow_lmms.run_recorder import RunRecorder

HALF: Scores = [1.0, 0.0] * 10


@pytest.fixture
def client(shared_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(shared_mlflow.parent)  # MLflow makes artifact folders where it stands
    look_models_up_at(f"sqlite:///{shared_mlflow}", monkeypatch)
    return MlflowClient(f"sqlite:///{shared_mlflow}")


@pytest.fixture
def run_id(client: MlflowClient, request: pytest.FixtureRequest) -> str:
    """A run with its artifacts in a local folder, in an experiment of the test's own."""
    experiment_id = client.create_experiment(f"recorder {request.node.name}"[:200])
    return str(client.create_run(experiment_id, tags={Tag.TASKS: "t,u"}).info.run_id)


@pytest.fixture
def record(client: MlflowClient, run_id: str, tmp_path: Path) -> Any:
    """Writes a task's files and records them; returns the run as it is then."""

    def write_and_record(task: str, scores: dict[str, Scores], *, attempt: int = 1, **fields: Any) -> Run:
        file = write_task(tmp_path / f"out{attempt}", task, scores, **fields)
        RunRecorder(client).record_task(run_id, file, attempt)
        return client.get_run(run_id)

    return write_and_record


def artifact(client: MlflowClient, run_id: str, path: str) -> Path:
    return Path(client.download_artifacts(run_id, path))


def test_a_task_becomes_metrics_tags_and_artifacts(record: Any, client: MlflowClient, run_id: str) -> None:
    run = record("t", {"exact_match": HALF})
    interval = mean_interval(np.asarray(HALF, dtype=float))
    assert interval is not None
    assert run.data.metrics == {
        "t/exact_match": 0.5,
        "t/exact_match::n": 20.0,
        "t/exact_match::stderr": pytest.approx(0.11470787),
        "t/exact_match::ci_low": pytest.approx(interval.low),
        "t/exact_match::ci_high": pytest.approx(interval.high),
    }
    primary = json.loads(run.data.tags[Tag.primary("t")])
    assert primary.pop("recorded_at") > 0
    assert primary == {
        "metric": "exact_match",
        "filter": "none",
        "higher_is_better": True,
        "direction_reason": "the task says so",
        "reason": "the only one",
        "scale": {"high": 1.0, "reason": "the mean of the samples' scores, which lie between 0 and 1"},
        "factor": 1.0,
        "per_sample": True,
        "warnings": [],
        "partial": False,
    }
    assert json.loads(run.data.tags[Tag.fingerprint("t")]) == FINGERPRINT
    assert run.data.tags[Tag.LMMS_EVAL_VERSION] == "0.7.3"
    assert pq.read_table(artifact(client, run_id, "lmms/samples/t.parquet")).num_rows == 20
    assert pq.read_table(artifact(client, run_id, "lmms/samples/t.scores.parquet")).num_rows == 20
    assert json.loads(artifact(client, run_id, "lmms/tasks/t.json").read_text())["task"] == "t"
    assert json.loads(artifact(client, run_id, "lmms/results.json").read_text()) == {
        "results": {"t": {"alias": "t"}},
        "groups": {},
    }


def test_filters_and_further_metrics_have_their_names(record: Any) -> None:
    corpus = {"metric": "wer", "filter": "none", "value": 12.5, "n": 20, "higher_is_better": False}
    run = record("gsm8k", {"exact_match": HALF}, filter_name="flexible-extract", metrics=[corpus])
    metrics = run.data.metrics
    assert metrics["gsm8k/exact_match:flexible-extract"] == 0.5
    assert metrics["gsm8k/exact_match:flexible-extract::n"] == 20
    assert metrics["gsm8k/wer"] == 12.5
    assert "gsm8k/wer::ci_low" not in metrics


def test_the_step_is_the_attempt_and_a_new_score_takes_the_old_ones_place(
    record: Any, client: MlflowClient, run_id: str
) -> None:
    record("t", {"acc": HALF})
    run = record("t", {"acc": [1.0] * 20}, attempt=2)
    assert run.data.metrics["t/acc"] == 1.0
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "t/acc")] == [
        (1, 0.5),
        (2, 1.0),
    ]


def test_recording_twice_changes_nothing(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    slices = [{"dimension": "digit", "value": str(digit), "n": 2, "score": digit / 10} for digit in range(10)]
    file = write_task(tmp_path, "t", {"acc": HALF}, slices=slices)

    def recorded() -> tuple[Any, ...]:
        RunRecorder(client).record_task(run_id, file, 1)
        run = client.get_run(run_id)
        assert run.inputs is not None
        names = sorted(run.data.metrics)
        history = [
            (m.key, m.value, m.timestamp, m.step) for name in names for m in client.get_metric_history(run_id, name)
        ]
        files = sorted((f.path, f.is_dir) for f in client.list_artifacts(run_id, "lmms"))
        table = pq.read_table(artifact(client, run_id, "lmms/slices.parquet")).to_pylist()
        return history, run.data.tags, files, table, run.inputs.to_dictionary()

    first = recorded()
    assert recorded() == first
    assert len(first[3]) == 10


def test_values_that_are_no_numbers_are_left_out(record: Any) -> None:
    odd = [
        {"metric": "none", "filter": "none", "value": None, "n": 0},
        {"metric": "nan", "filter": "none", "value": float("nan"), "n": 5},
        {"metric": "inf", "filter": "none", "value": float("inf"), "n": 5},
        {"metric": "odd_error", "filter": "none", "value": 1.0, "stderr": float("nan"), "n": 5},
    ]
    run = record("t", {"acc": [1.0, None, 0.0, None]}, metrics=odd)
    assert set(run.data.metrics) == {
        "t/acc",
        "t/acc::n",
        "t/acc::stderr",
        "t/acc::ci_low",
        "t/acc::ci_high",
        "t/odd_error",
        "t/odd_error::n",
    }
    assert run.data.metrics["t/acc::n"] == 2


def test_a_task_without_local_score_is_recorded_too(record: Any) -> None:
    submission = {"metric": "submission", "filter": "none", "value": None, "n": 0}
    run = record("t", {}, metrics=[submission])
    assert run.data.metrics == {}
    assert Tag.primary("t") not in run.data.tags
    assert Tag.fingerprint("t") in run.data.tags


def test_more_metrics_than_mlflow_takes_at_once_are_recorded(record: Any) -> None:
    many = [{"metric": f"m{number}", "filter": "none", "value": float(number), "n": 1} for number in range(1200)]
    run = record("t", {"acc": HALF}, metrics=many)
    assert len(run.data.metrics) == 2 * 1200 + 5
    assert run.data.metrics["t/m1199"] == 1199.0


def test_long_names_are_cut_and_can_be_read_back(record: Any) -> None:
    names = [f"{'long ' * 60}{number}" for number in range(120)]
    many = [{"metric": name, "filter": "none", "value": float(at), "n": 1} for at, name in enumerate(names)]
    run = record("t", {"acc": HALF}, metrics=many)
    assert max(len(key) for key in run.data.metrics) == NAME_LIMIT
    found = {
        MetricName.parse(run.data.tags[Tag.whole_name(key)]): value
        for key, value in run.data.metrics.items()
        if was_cut(key)
    }
    assert {name: found[MetricName("t", name)] for name in names} == {
        name: float(at) for at, name in enumerate(names)
    }
    assert found[MetricName("t", names[7], statistic="n")] == 1


def test_slices_become_metrics_with_the_worst_group_and_the_gap(record: Any) -> None:
    slices = [
        {"dimension": "digit", "value": "8", "n": 12, "score": 0.25},
        {"dimension": "digit", "value": "0", "n": 18, "score": 0.875},
        {"dimension": "digit", "value": "7", "n": 9, "score": 0.0},  # too few to be judged
        {"dimension": "kind of ink", "value": "thin/light", "n": 20, "score": 0.5},
    ]
    run = record("t", {"acc": HALF}, slices=slices)
    metrics = run.data.metrics
    assert metrics["t/acc/digit:8"] == 0.25
    assert metrics["t/acc/digit:8::n"] == 12
    assert metrics["t/acc/kind of ink:thin.x002F.light"] == 0.5
    assert metrics["t/acc::worst digit"] == 0.25
    assert metrics["t/acc::gap digit"] == 0.625
    assert metrics["t/acc/digit:7"] == 0.0
    assert "t/acc::gap kind of ink" not in metrics, "a group alone has nothing to be apart from"
    assert run.data.tags[Tag.worst("t")] == "digit=8"


def test_the_worst_group_is_the_largest_where_lower_is_better(record: Any) -> None:
    slices = [{"dimension": "d", "value": str(value), "n": 15, "score": float(value)} for value in (3, 9, 6)]
    run = record("t", {"wer": [3.0, 9.0]}, slices=slices, higher_is_better=False)
    assert run.data.metrics["t/wer::worst d"] == 9
    assert run.data.tags[Tag.worst("t")] == "d=9"


def test_too_many_slices_stay_in_the_table(record: Any, client: MlflowClient, run_id: str) -> None:
    def pieces(dimension: str, count: int) -> list[dict[str, Any]]:
        return [{"dimension": dimension, "value": str(n), "n": 10, "score": 0.5} for n in range(count)]

    run = record("t", {"acc": HALF}, slices=[*pieces("few", 10), *pieces("many", 400), *pieces("some", 30)])
    sliced = [key for key in run.data.metrics if key.startswith("t/acc/")]
    assert {key.split("/")[2].split(":")[0] for key in sliced} == {"few", "some"}
    assert len(sliced) <= 200 / 2  # the run has two tasks
    assert "t/acc::worst many" in run.data.metrics
    assert pq.read_table(artifact(client, run_id, "lmms/slices.parquet")).num_rows == 440


def test_the_slices_and_results_of_all_tasks_stand_together(record: Any, client: MlflowClient, run_id: str) -> None:
    for task, score in (("t", 0.25), ("u", 0.75), ("t", 0.5)):
        slices = [{"dimension": "d", "value": "名", "n": 5, "score": score}]
        record(task, {"acc": HALF}, slices=slices, raw={"acc,none": score})
    table = pq.read_table(artifact(client, run_id, "lmms/slices.parquet"))
    assert table.column_names == [
        *("task", "dimension", "value", "metric", "filter", "n", "score"),
        *("low", "high", "method"),
    ]
    assert sorted((row["task"], row["score"]) for row in table.to_pylist()) == [("t", 0.5), ("u", 0.75)]
    results = json.loads(artifact(client, run_id, "lmms/results.json").read_text())
    assert results == {"results": {"t": {"acc,none": 0.5}, "u": {"acc,none": 0.75}}, "groups": {}}


@pytest.mark.parametrize("task", ["refcoco+_bbox_val", "数字 task", ".hidden", "a.b c"])
def test_tasks_with_odd_names_are_found_under_their_path(
    record: Any, client: MlflowClient, run_id: str, task: str
) -> None:
    run = record(task, {"acc": HALF})
    assert run.data.metrics[str(MetricName(task, "acc"))] == 0.5
    for path in (Artifact.samples(task), Artifact.scores(task), Artifact.task_result(task)):
        assert artifact(client, run_id, path).is_file()


def test_every_task_of_lmms_eval_can_be_recorded(client: MlflowClient, catalogue: Catalogue, run_id: str) -> None:
    """MLflow takes the names: one batch of metrics and one of tags over a sample of all tasks."""
    names = [str(MetricName(task, "exact_match").of("ci_low")) for task in sorted(catalogue.tasks)]
    for start in range(0, len(names), 1000):
        client.log_batch(run_id, metrics=[Metric(name, 1.0, 0, 1) for name in names[start : start + 1000]])
    assert set(client.get_run(run_id).data.metrics) == set(names)
    odd = [task for task in catalogue.tasks if not task.isidentifier()][:100]
    client.log_batch(run_id, tags=[RunTag(Tag.primary(task), "{}") for task in odd])


def test_mlflow_knows_the_dataset_and_the_model(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    version = register_model(client, "recorded", ModelDescription(adapter="dummy"))
    model_id = version.tags[ModelTag.LOGGED_MODEL]
    client.set_tag(run_id, Tag.LOGGED_MODEL, model_id)
    file = write_task(tmp_path, "t", {"acc": HALF})
    for _ in range(2):
        RunRecorder(client).record_task(run_id, file, 1)
    run = client.get_run(run_id)
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == ("t", "d" * 32, "eval")
    assert [given.model_id for given in run.inputs.model_inputs] == [model_id]
    metrics = {metric.key: metric for metric in client.get_logged_model(model_id).metrics or ()}
    assert metrics["t/acc"].value == 0.5
    assert metrics["t/acc"].dataset_name == "t"


@pytest.mark.parametrize("missing", ["tasks/t.json", "samples/t.parquet", "samples/t.scores.parquet"])
def test_a_file_that_is_missing_is_named(client: MlflowClient, run_id: str, tmp_path: Path, missing: str) -> None:
    file = write_task(tmp_path, "t", {"acc": HALF})
    (tmp_path / missing).unlink()
    with pytest.raises(UnreadableOutputError, match=Path(missing).name):
        RunRecorder(client).record_task(run_id, file, 1)
    assert client.get_run(run_id).data.metrics == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"protocol": 1}', "[" * 100_000])
def test_a_result_that_the_runner_did_not_write_is_refused(
    client: MlflowClient, run_id: str, tmp_path: Path, text: str
) -> None:
    file = write_task(tmp_path, "t", {"acc": HALF})
    file.write_text(text)
    with pytest.raises(UnreadableOutputError, match="is no task result"):
        RunRecorder(client).record_task(run_id, file, 1)


def test_the_runs_own_files_are_stored_where_they_are_there(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_text('{"message": "hello"}\n')
    (tmp_path / "command.txt").write_text("python -m lmms_eval\n")
    RunRecorder(client).record_run_files(run_id, tmp_path)
    assert sorted(file.path for file in client.list_artifacts(run_id, "lmms")) == [
        "lmms/command.txt",
        "lmms/log.jsonl",
    ]
    assert artifact(client, run_id, "lmms/log.jsonl").read_text() == '{"message": "hello"}\n'
