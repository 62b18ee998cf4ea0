"""What a run holds of results, read through a function that fetches its artifacts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from runner_files import FINGERPRINT, write_task

from mlflow_lmms.errors import NotFoundError, UnreadableOutputError
from mlflow_lmms.names import Artifact
from mlflow_lmms.run_reader import RunReader, no_such_artifact
from mlflow_lmms.score import Score

TASK = "refcoco+ 名"


class Run:
    """Artifacts in a local folder, and how often they were fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []

    def fetch(self, run_id: str, path: str) -> Path:
        self.fetched.append(path)
        file = self.folder / path
        if run_id != "run" or not file.is_file():
            raise no_such_artifact(run_id, path)
        return file

    def put(self, file: Path, path: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, self.folder / path)

    def log(self, *lines: Any) -> None:
        file = self.folder / Artifact.LOG
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        file.write_bytes(text.encode() + b"\xff\n")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with one recorded task."""
    made = Run(tmp_path / "artifacts")
    out = tmp_path / "out"
    pictures = pa.list_(pa.struct([("mime", pa.string()), ("data", pa.binary())]))
    media = pa.array([[{"mime": "image/png", "data": b"1"}], [], []], pictures)
    result = write_task(out, TASK, {"wer": [0.0, 2.0, 0.0]}, higher_is_better=False, columns={"media": media})
    made.put(result, Artifact.task_result(TASK))
    for path in (Artifact.samples(TASK), Artifact.scores(TASK)):
        suffix = ".scores.parquet" if path.endswith(".scores.parquet") else ".parquet"
        made.put(out / "samples" / f"{result.stem}{suffix}", path)
    return made


def score(**fields: Any) -> Score:
    values: dict[str, Any] = {
        "run_id": "run", "experiment_id": "1", "model": "m", "suite": "s", "task": TASK, "metric": "wer",
        "filter": "none", "value": 0.5, "low": None, "high": None, "n": 3, "higher_is_better": False,
        "partial": False, "attempt": 1, "fingerprint": FINGERPRINT, "recorded_at": 1.0,
    }  # fmt: skip
    return Score(**values | fields)


def test_a_task_and_its_samples_are_read_under_their_odd_name(run: Run) -> None:
    reader = RunReader(run.fetch)
    assert reader.task_result("run", TASK).task == TASK
    page = reader.samples("run", TASK, wrong_only=True)
    assert [sample.index for sample in page.samples] == [1]  # the smallest is best
    assert reader.samples("run", TASK, search="picture 2").total == 1
    assert reader.media("run", TASK, 0, 0) == ("image/png", b"1")


def test_what_is_not_there_is_named(run: Run) -> None:
    reader = RunReader(run.fetch)
    with pytest.raises(NotFoundError, match=r"run run has no artifact lmms/tasks/other\.json"):
        reader.samples("run", "other")
    with pytest.raises(NotFoundError, match="nobody"):
        reader.task_result("nobody", TASK)
    with pytest.raises(NotFoundError):
        list(reader.log("run"))


def test_a_result_that_was_spoiled_is_told(run: Run) -> None:
    (run.folder / Artifact.task_result(TASK)).write_text("{")
    with pytest.raises(UnreadableOutputError):
        RunReader(run.fetch).samples("run", TASK)


def test_scores_per_document_are_kept_in_memory(run: Run) -> None:
    reader = RunReader(run.fetch)
    first = reader.vector(score())
    assert first is not None
    assert sorted(first.values) == [0.0, 0.0, 2.0]
    assert reader.vector(score()) is first
    assert len(run.fetched) == 1
    reader.vector(score(recorded_at=2.0))
    assert len(run.fetched) == 2


def test_the_memory_for_scores_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_lmms.run_reader._VECTORS_KEPT", 2)
    reader = RunReader(run.fetch)
    for recorded_at in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):
        reader.vector(score(recorded_at=recorded_at))
    assert len(run.fetched) == 4  # 2 had to go when 3 came, because 1 was used since


@pytest.mark.parametrize("fields", [{"run_id": "nobody"}, {"metric": "f1"}, {"task": "other"}])
def test_a_score_without_samples_has_no_vector(run: Run, fields: dict[str, Any]) -> None:
    assert RunReader(run.fetch).vector(score(**fields)) is None


def test_the_log_is_filtered_by_level_and_words(run: Run) -> None:
    run.log(
        {"level": "DEBUG", "message": "loading"},
        {"level": "INFO", "message": "Model LOADED"},
        {"level": "ERROR", "message": "no memory"},
        {"level": "TRACE", "message": "unknown levels pass"},
        "a line that is no JSON",
        "[1, 2]",
    )
    reader = RunReader(run.fetch)

    def messages(**query: str) -> list[str]:
        return [line["message"] for line in reader.log("run", **query)]

    assert len(messages()) == 7
    assert messages(level="ERROR") == ["no memory", "unknown levels pass"]
    assert messages(search="load") == ["loading", "Model LOADED"]
    assert messages(level="INFO", search="load") == ["Model LOADED"]
    assert messages(level="odd", search="json") == ["a line that is no JSON"]
    assert messages(search="\N{REPLACEMENT CHARACTER}") == ["\N{REPLACEMENT CHARACTER}"]


def test_warnings_of_a_result_are_read_once_and_by_name_where_its_file_is_gone(run: Run) -> None:
    assert RunReader(run.fetch).warnings(score()) == ()
    file = run.folder / Artifact.task_result(TASK)
    told = json.loads(file.read_text()) | {"warnings": [{"name": "below_chance", "message": "It is.", "count": 3}]}
    file.write_text(json.dumps(told))
    reader = RunReader(run.fetch)
    flagged = score(warnings=("below_chance",))
    (warning,) = reader.warnings(flagged)
    assert (warning.message, warning.count) == ("It is.", 3)
    file.unlink()
    assert reader.warnings(flagged) == (warning,)
    (named,) = RunReader(run.fetch).warnings(flagged)
    assert (named.name, named.message) == ("below_chance", "below chance.")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ('{"groups": {"g": [{"metric": "acc", "value": 0.5}, 3], "h": 7}}', {"g": [{"metric": "acc", "value": 0.5}]}),
        ('{"groups": []}', {}),
        ("[]", {}),
        ("{", {}),
    ],
)
def test_group_scores_are_read_and_nonsense_is_left_out(run: Run, text: str, groups: dict[str, Any]) -> None:
    (run.folder / Artifact.RESULTS).write_text(text)
    assert RunReader(run.fetch).group_scores("run") == groups
    (run.folder / Artifact.RESULTS).unlink()
    assert RunReader(run.fetch).group_scores("run") == {}
