"""The real lmms-eval's output folder, imported, says what our own run of the same says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmms_digits
import pyarrow.parquet as pq
import pytest
from lmms_digits.train import train
from mlflow import MlflowClient
from runner_process import DEADLINE_S, Outcome, Runner

from mlflow_lmms.importing.discovery import discover
from mlflow_lmms.importing.import_run import Importer, ImportOptions
from mlflow_lmms.importing.model_map import ModelMap
from mlflow_lmms.importing.scrubbed import scrubber_for_files
from mlflow_lmms.names import Artifact

pytestmark = pytest.mark.lmms_eval

TASKS = ("digits_vqa", "digits_parity", "digits_sum", "digits_vqa_filters")
SAME = ("metric", "filter", "value", "native", "factor", "level", "n", "missing", "binary", "higher_is_better")
SAME_FINGERPRINT = ("generation", "num_fewshot", "limit", "offset", "filter", "rows")


@pytest.fixture(scope="module")
def bare_and_ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """lmms-eval's own command and our runner, on the same model and tasks."""
    folder = tmp_path_factory.mktemp("import-lmms-eval")
    runner = Runner(tmp_path_factory.mktemp("hub"))
    model_args = f"path={train(folder / 'models')['nearest-centroid']}"
    tasks = str(lmms_digits.tasks_folder())
    command = [sys.executable, "-P", "-m", "lmms_eval", "--model", "digits", "--model_args", model_args]
    command += ["--include_path", tasks, "--tasks", ",".join(TASKS), "--limit", "40"]
    done = subprocess.run(
        [*command, "--log_samples", "--output_path", str(folder / "bare")],
        env=runner.environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_S,
        check=False,
    )
    assert list((folder / "bare").rglob("*_results.json")), done.stdout.decode(errors="replace")[-4000:]
    ours = runner.run(
        folder, model="digits", model_args=model_args, include_paths=[tasks], tasks=list(TASKS), limit=40
    )
    assert ours.status == 0, ours.console
    return folder / "bare", ours


@pytest.fixture
def imported(bare_and_ours: tuple[Path, Outcome], mlflow_client: MlflowClient) -> tuple[MlflowClient, str]:
    """The bare command's folder as a run."""
    importer = Importer(mlflow_client, ImportOptions(), ModelMap(mlflow_client, {}), scrubber_for_files())
    report = importer.import_all(discover([bare_and_ours[0]]))
    assert not report.refused
    (outcome,) = report.files
    assert set(outcome.tasks) == set(TASKS)
    return mlflow_client, str(outcome.run_id)


@pytest.mark.parametrize("task", TASKS)
def test_an_imported_task_is_the_live_one(
    task: str, imported: tuple[MlflowClient, str], bare_and_ours: tuple[Path, Outcome]
) -> None:
    client, run_id = imported
    file = Path(client.download_artifacts(run_id, Artifact.task_result(task)))
    theirs: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    ours = bare_and_ours[1].result(task)
    for own, other in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert {name: other[name] for name in SAME} == {name: own[name] for name in SAME}
        assert (other["mean"], other["sd"]) == (pytest.approx(own["mean"]), pytest.approx(own["sd"]))
    assert theirs["primary"] == ours["primary"]
    assert [w["name"] for w in theirs["warnings"]] == [w["name"] for w in ours["warnings"]]
    told = {part: theirs["fingerprint"][part] for part in SAME_FINGERPRINT}
    assert told == {part: ours["fingerprint"][part] for part in SAME_FINGERPRINT}
    table = pq.read_table(Path(client.download_artifacts(run_id, Artifact.samples(task)))).to_pylist()
    for row, live in zip(table, bare_and_ours[1].samples(task), strict=True):
        # Under several filters lmms-eval 0.7.3 writes no raw answer at all.
        unknown = {"responses"} if len(theirs["metrics"]) > 1 else set()
        for name in live.keys() & row.keys() - {"doc_hash", "media", *unknown}:
            assert row[name] == live[name], name
