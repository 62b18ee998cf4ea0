"""Output folders and published scores as runs of a real MLflow store: names, times, idempotence, links, clients."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import output_folders as outputs
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from output_folders import rows, sound, write_results, write_samples
from statsmodels.stats.proportion import proportion_confint

import mlflow_lmms
from mlflow_lmms.errors import ConflictError, InvalidRequestError, NotFoundError
from mlflow_lmms.importing.discovery import discover
from mlflow_lmms.importing.experiments import experiment_named
from mlflow_lmms.importing.import_run import Importer, ImportOptions
from mlflow_lmms.importing.link_run import link_run
from mlflow_lmms.importing.model_map import ModelMap, parse_map
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.importing.report import FileOutcome, ImportReport, ImportStatus
from mlflow_lmms.importing.reported_scores import ReportedScores
from mlflow_lmms.importing.run_writer import RunWriter
from mlflow_lmms.names import Artifact, Tag
from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.registry import ModelDescription, register_model
from mlflow_lmms.scrubbing import Scrubber


def import_from(client: MlflowClient, *paths: Path, mapping: Sequence[str] = (), **options: Any) -> ImportReport:
    models = ModelMap(client, parse_map(mapping))
    return Importer(client, ImportOptions(**options), models, Scrubber()).import_all(discover(paths))


def only(report: ImportReport) -> FileOutcome:
    (outcome,) = report.files
    return outcome


def runs(client: MlflowClient, experiment: str = "lmms-eval") -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def imported_run(client: MlflowClient, *paths: Path, **options: Any) -> Run:
    outcome = only(import_from(client, *paths, **options))
    assert outcome.status is ImportStatus.IMPORTED, outcome
    return client.get_run(str(outcome.run_id))


def artifact(client: MlflowClient, run: Run, path: str) -> Path:
    return Path(client.download_artifacts(run.info.run_id, path))


def test_a_folder_becomes_a_run_like_a_live_one(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    path = sound(tmp_path / "outputs" / "Qwen__Qwen2-VL")
    run = imported_run(mlflow_client, tmp_path / "outputs")
    assert run.info.run_name == "Qwen/Qwen2-VL-2B-Instruct · my_vqa"
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 90_500)
    assert run.info.start_time == (1735732800 - 8 * 3600) * 1000
    low, high = proportion_confint(8, 10, method="wilson")
    assert run.data.metrics == {
        "my_vqa/exact_match": 0.8,
        "my_vqa/exact_match::n": 10.0,
        "my_vqa/exact_match::stderr": 0.13,
        "my_vqa/exact_match::ci_low": pytest.approx(low),
        "my_vqa/exact_match::ci_high": pytest.approx(high),
    }
    tags = run.data.tags
    assert tags[Tag.SOURCE] == "import"
    assert tags[Tag.STATE] == "finished" == tags[Tag.task_state("my_vqa")]
    assert tags[Tag.TASKS] == tags[Tag.SUITE] == "my_vqa"
    assert tags[Tag.IMPORT_KEY] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(tags[Tag.primary("my_vqa")])["metric"] == "exact_match"
    assert run.data.params["adapter"] == "qwen2_vl"
    (metric,) = mlflow_client.get_metric_history(run.info.run_id, "my_vqa/exact_match")
    assert metric.timestamp == run.info.end_time
    assert pq.read_table(artifact(mlflow_client, run, Artifact.samples("my_vqa"))).num_rows == 10
    assert json.loads(artifact(mlflow_client, run, "lmms/imported_results.json").read_text())["git_hash"] == "bbd344e"


def test_a_second_import_adds_nothing(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    sound(tmp_path / "outputs")
    first = imported_run(mlflow_client, tmp_path / "outputs")
    again = only(import_from(mlflow_client, tmp_path / "outputs", experiment="another"))
    assert (again.status, again.run_id) == (ImportStatus.ALREADY, first.info.run_id)
    assert len(runs(mlflow_client)) == 1
    assert runs(mlflow_client, "another") == []
    assert mlflow_client.get_run(first.info.run_id).to_dictionary() == first.to_dictionary()


def test_an_interrupted_import_is_replaced(
    mlflow_client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "outputs")
    with monkeypatch.context() as patch:
        # As a killed process leaves it: nothing is cleared away.
        patch.setattr(RunWriter, "finish", lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL))
        process = multiprocessing.get_context("fork").Process(
            target=import_from, args=(mlflow_client, tmp_path / "outputs")
        )
        process.start()
        process.join(120)
    assert process.exitcode == -signal.SIGKILL
    (left,) = runs(mlflow_client)
    assert (left.info.status, left.data.tags[Tag.STATE]) == ("RUNNING", "recording")
    run = imported_run(mlflow_client, tmp_path / "outputs")
    assert [own.info.run_id for own in runs(mlflow_client)] == [run.info.run_id]
    assert mlflow_client.get_run(left.info.run_id).info.lifecycle_stage == "deleted"


def test_an_import_that_fails_leaves_no_run(
    mlflow_client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "outputs")

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunWriter, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_from(mlflow_client, tmp_path / "outputs")
    assert runs(mlflow_client) == []


def test_two_imports_at_once_make_one_run(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    sound(tmp_path / "outputs")
    experiment_named(mlflow_client, "lmms-eval")
    processes = [
        multiprocessing.get_context("fork").Process(target=import_from, args=(mlflow_client, tmp_path / "outputs"))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(runs(mlflow_client)) == 1


def test_of_two_imports_on_two_machines_one_stays(
    mlflow_client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "outputs")
    finish = RunWriter.finish
    other: list[str] = []

    def finish_after_another_machine(self: RunWriter, *args: Any, **options: Any) -> None:
        monkeypatch.setattr(RunWriter, "finish", finish)
        monkeypatch.setenv("TMPDIR", str(tmp_path))  # another machine has other locks
        monkeypatch.setattr("tempfile.tempdir", None)
        other.append(str(only(import_from(mlflow_client, tmp_path / "outputs")).run_id))
        finish(self, *args, **options)

    monkeypatch.setattr(RunWriter, "finish", finish_after_another_machine)
    with pytest.raises(mlflow_lmms.LmmsError):  # its run was taken away as one that nobody finishes
        import_from(mlflow_client, tmp_path / "outputs")
    assert [run.info.run_id for run in runs(mlflow_client)] == other


def test_what_is_refused_does_not_stop_the_others(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    bad = sound(tmp_path / "a")
    bad.write_text("{")
    sound(tmp_path / "b", "other_vqa")
    report = import_from(mlflow_client, tmp_path)
    assert [own.status for own in report.files] == [ImportStatus.REFUSED, ImportStatus.IMPORTED]
    assert report.refused == [(bad, "the JSON ends too early")]
    assert [run.data.tags[Tag.SUITE] for run in runs(mlflow_client)] == ["other_vqa"]


def test_a_file_whose_tasks_all_fail_says_why(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    path = sound(tmp_path)
    lines = rows()
    lines[1] |= {"resps": [[""]], "filtered_resps": [""]}
    write_samples(path.parent, "my_vqa", lines)
    outcome = only(import_from(mlflow_client, tmp_path, policy=ErroredPolicy("drop", 0.05)))
    assert outcome.status is ImportStatus.REFUSED
    assert str(outcome.reason).startswith("none of its tasks could be imported: task my_vqa: 1 of 10 samples")
    assert runs(mlflow_client) == []


def test_a_dry_run_writes_nothing(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    outcome = only(import_from(mlflow_client, tmp_path, dry_run=True))
    assert outcome.status is ImportStatus.WOULD_IMPORT
    assert outcome.warnings == {"my_vqa": ("samples_missing",)}
    assert runs(mlflow_client) == []


def test_a_score_that_moved_while_answers_did_not(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    lines = [{**own, "exact_match": 1.0} for own in rows()]
    for name, score, scored in (("20250101_100000", 0.0, 0.0), ("20250101_110000", 1.0, 1.0)):
        folder = tmp_path / name
        write_samples(folder, "t", [{**own, "exact_match": scored} for own in lines], name=f"{name}_samples_t.jsonl")
        write_results(folder, {"t": {"exact_match,none": score}}, name=f"{name}_results.json", date=name)
    first, second = import_from(mlflow_client, tmp_path).files
    assert "score_moved" not in first.warnings.get("t", ())
    assert second.warnings["t"] == ("score_moved",)
    tags = mlflow_client.get_run(str(second.run_id)).data.tags
    assert "score_moved" in tags[Tag.WARNINGS]


def test_groups_are_computed_anew(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    write_results(
        tmp_path,
        {"g": {"acc,none": 0.99}, "a": {"acc,none": 0.9}, "b": {"acc,none": 0.6}},
        group_subtasks={"g": ["a", "b"]},
        configs={"a": {}, "b": {}},
        n_samples={"a": {"original": 10, "effective": 10}, "b": {"original": 20, "effective": 20}},
    )
    run = imported_run(mlflow_client, tmp_path)
    assert run.data.tags[Tag.SUITE] == "g"
    assert run.data.metrics["g/acc"] == pytest.approx(0.7)  # and not what the file says of its group


def linked_models(run: Run) -> list[str]:
    return [model.model_id for model in run.inputs.model_inputs] if run.inputs else []


@pytest.fixture
def version(mlflow_client: MlflowClient) -> str:
    made = register_model(
        mlflow_client, "qwen", ModelDescription(adapter="qwen2_vl", model_args={"pretrained": "Qwen/Qwen2-VL"})
    )
    return f"models:/qwen/{made.version}"


@pytest.mark.parametrize("folder", ["Qwen__Qwen2-VL", "outputs/Qwen__Qwen2-VL", "outputs"])
def test_a_folder_is_mapped_to_a_registered_model(
    folder: str, mlflow_client: MlflowClient, version: str, tmp_path: Path
) -> None:
    sound(tmp_path / "outputs" / "Qwen__Qwen2-VL" / "inner")
    run = imported_run(mlflow_client, tmp_path / "outputs", mapping=[f"{folder}={version}"])
    assert run.info.run_name == "qwen v1 · my_vqa"
    assert (run.data.tags[Tag.MODEL], run.data.tags[Tag.MODEL_VERSION]) == ("qwen", "1")
    assert Tag.UNREGISTERED not in run.data.tags
    assert linked_models(run) == [run.data.tags[Tag.LOGGED_MODEL]]


def test_a_file_of_mappings(mlflow_client: MlflowClient, version: str, tmp_path: Path) -> None:
    sound(tmp_path / "outputs" / "a")
    mapping = tmp_path / "map.yaml"
    mapping.write_text(f"a: {version}\n")
    assert imported_run(mlflow_client, tmp_path / "outputs", mapping=[str(mapping)]).data.tags[Tag.MODEL] == "qwen"
    with pytest.raises(InvalidRequestError, match="--map takes"):
        parse_map(["nowhere"])
    with pytest.raises(NotFoundError):
        import_from(mlflow_client, tmp_path / "outputs", mapping=["a=models:/no-such-model/1"])


def test_a_run_is_linked_afterwards(mlflow_client: MlflowClient, version: str, tmp_path: Path) -> None:
    sound(tmp_path)
    run = imported_run(mlflow_client, tmp_path)
    link_run(mlflow_client, run.info.run_id, version)
    linked = mlflow_client.get_run(run.info.run_id)
    assert linked.info.run_name == "qwen v1 · my_vqa"
    assert (linked.data.tags[Tag.MODEL], linked.data.tags[Tag.MODEL_VERSION]) == ("qwen", "1")
    assert Tag.UNREGISTERED not in linked.data.tags
    assert linked.data.metrics == run.data.metrics
    model_id = linked.data.tags[Tag.LOGGED_MODEL]
    assert linked_models(linked) == [model_id]
    assert {metric.key for metric in mlflow_client.get_logged_model(model_id).metrics or ()} == {"my_vqa/exact_match"}
    with pytest.raises(NotFoundError, match="there is no run"):
        link_run(mlflow_client, "0" * 32, version)
    mlflow_client.set_tag(run.info.run_id, Tag.SOURCE, "queue")
    with pytest.raises(ConflictError):
        link_run(mlflow_client, run.info.run_id, version)


@pytest.fixture
def tracking(mlflow_client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(mlflow_client.tracking_uri))
    mlflow.set_tracking_uri(str(mlflow_client.tracking_uri))
    return mlflow_client


def test_a_script_logs_its_results_into_its_own_run(tracking: MlflowClient, version: str, tmp_path: Path) -> None:
    sound(tmp_path / "outputs")
    with mlflow.start_run(run_name="mine") as mine:
        mlflow.log_param("model", "my own words")
        assert mlflow_lmms.log_results(tmp_path / "outputs", model=version) == mine.info.run_id
        assert tracking.get_run(mine.info.run_id).info.status == "RUNNING"
    run = tracking.get_run(mine.info.run_id)
    assert (run.info.run_name, run.data.params["model"]) == ("mine", "my own words")
    assert run.data.tags[Tag.SOURCE] == "client"
    assert run.data.tags[Tag.MODEL] == "qwen"
    assert run.data.metrics["my_vqa/exact_match"] == 0.8
    again = only(import_from(tracking, tmp_path / "outputs"))
    assert (again.status, again.run_id) == (ImportStatus.ALREADY, mine.info.run_id)


def test_two_results_files_in_one_run_of_a_script(tracking: MlflowClient, tmp_path: Path) -> None:
    first, second = sound(tmp_path / "a", "one"), sound(tmp_path / "b", "two")
    with mlflow.start_run() as mine:
        with pytest.raises(InvalidRequestError, match="2 of them"):
            mlflow_lmms.log_results(tmp_path)
        mlflow_lmms.log_results(first)
        mlflow_lmms.log_results(second)
    run = tracking.get_run(mine.info.run_id)
    assert run.data.tags[Tag.TASKS] == "one,two"
    assert {"one/exact_match", "two/exact_match"} <= run.data.metrics.keys()


def test_logging_results_needs_a_run_and_sound_files(tracking: MlflowClient, tmp_path: Path) -> None:
    sound(tmp_path)
    with pytest.raises(InvalidRequestError, match="no active MLflow run"):
        mlflow_lmms.log_results(tmp_path)
    write_samples(tmp_path, "my_vqa", [])
    with mlflow.start_run(), pytest.raises(RefusedFileError, match="it is empty"):
        mlflow_lmms.log_results(tmp_path)


TABLE = """model,task,metric,score,source,date,url
a,mme,,1890.5,paper A,2024-05-01,https://example.org/a
a,mmmu_val,mmmu_acc,0.51,paper A,,
b,mme,,not a number,paper A,,
b,mme,,1700,paper A,,
a,mme,,1901,another page,,
"""


def reported(client: MlflowClient, folder: Path, content: str, name: str = "published.csv") -> ImportReport:
    (folder / name).write_text(content)
    return ReportedScores(client, experiment_named(client, "lmms-eval")).import_file(folder / name)


def test_published_scores_become_reported_runs(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    report = reported(mlflow_client, tmp_path, TABLE)
    assert report.count(ImportStatus.IMPORTED) == 3
    ((path, reason),) = report.refused
    assert (path.name, reason[:14]) == ("published.csv", "line 4: score:")
    found = {(run.data.tags[Tag.MODEL], run.data.tags[Tag.REPORTED_SOURCE]): run for run in runs(mlflow_client)}
    run = found["a", "paper A"]
    assert run.data.metrics == {"mme/score": 1890.5, "mmmu_val/mmmu_acc": 0.51}
    assert run.data.tags[Tag.SOURCE] == "reported"
    assert json.loads(run.data.tags[Tag.primary("mme")])["url"] == "https://example.org/a"
    assert [file.path for file in mlflow_client.list_artifacts(run.info.run_id, "lmms")] == ["lmms/reported.json"]
    assert set(found) == {("a", "paper A"), ("b", "paper A"), ("a", "another page")}


def test_published_scores_are_imported_once_and_corrected(mlflow_client: MlflowClient, tmp_path: Path) -> None:
    reported(mlflow_client, tmp_path, TABLE)
    again = reported(mlflow_client, tmp_path, TABLE)
    assert again.count(ImportStatus.ALREADY) == 3
    changed = reported(mlflow_client, tmp_path, TABLE.replace("1890.5", "1895") + "a,ocrbench,,700,paper A,,\n")
    assert (changed.count(ImportStatus.IMPORTED), changed.count(ImportStatus.ALREADY)) == (1, 2)
    assert len(runs(mlflow_client)) == 3
    run = next(own for own in runs(mlflow_client) if "mmmu_val/mmmu_acc" in own.data.metrics)
    assert run.data.metrics == {"mme/score": 1895.0, "mmmu_val/mmmu_acc": 0.51, "ocrbench/score": 700.0}
    told = json.loads(artifact(mlflow_client, run, "lmms/reported.json").read_text())
    assert sorted(row["task"] for row in told) == ["mme", "mmmu_val", "ocrbench"]


ROWS = [{"model": "a", "task": "mme", "score": 1890.5, "source": "paper A"}, {"model": "a"}, 7]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", json.dumps(ROWS, indent=0)),
        ("t.yaml", "- {model: a, task: mme, score: 1890.5, source: paper A}\n- model: a\n- 7\n"),
        ("t.csv", "model,task,score,source\na,mme,1890.5,paper A\na\na,b,c,d,e\n"),
    ],
)
def test_each_form_of_table_is_checked_row_by_row(
    name: str, content: str, mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    report = reported(mlflow_client, tmp_path, content, name)
    assert report.count(ImportStatus.IMPORTED) == 1
    lines = [int(reason.partition(":")[0].removeprefix("line ")) for _, reason in report.refused]
    assert lines == {"t.json": [8, 11], "t.yaml": [2, 3], "t.csv": [3, 4]}[name]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "", "no rows"),
        ("t.json", "{}", "expected a list"),
        ("t.json", "[" * 100_000, "cannot be read"),
        ("t.yaml", "a: b", "expected a list"),
        ("t.yaml", "- [", "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(
    name: str, content: str, reason: str, mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    with pytest.raises(RefusedFileError, match=reason):
        reported(mlflow_client, tmp_path, content, name)
    assert mlflow_client.search_runs(["0"], run_view_type=ViewType.ALL) == []


def test_sound_folders_of_every_version_are_imported_side_by_side(
    mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    for name, write in outputs.VERSIONS.items():
        write(tmp_path / name.replace(" ", "_"))
    report = import_from(mlflow_client, tmp_path)
    assert [own.status for own in report.files] == [ImportStatus.IMPORTED] * len(outputs.VERSIONS)
    assert not [own.warnings for own in report.files if own.warnings]
