"""`catalog check`: each wrong thing is named with its file and line, and sound folders are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_lmms.catalogue import installed_tasks_folder
from mlflow_lmms.catalogue.folder_check import check_folder
from mlflow_lmms.errors import InvalidRequestError

SOUND = """\
task: sound
dataset_path: json
dataset_kwargs:
  data_files:
    test: data.jsonl
test_split: test
doc_to_text: question
doc_to_target: !function scoring.target
process_results: !function scoring.score
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
SCORING = """\
def target(doc):
    return doc["answer"]


def score(doc, results):
    return {"right": 1.0}
"""


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one sound task, beside an lmms-eval that has the one task mme."""
    theirs = tmp_path_factory.mktemp("lmms_eval") / "tasks"
    theirs.mkdir()
    (theirs / "mme.yaml").write_text("task: mme\ndataset_path: lmms-lab/MME\n", encoding="utf-8")
    monkeypatch.setattr("mlflow_lmms.catalogue.build.installed_tasks_folder", lambda: theirs)
    (tmp_path / "sound.yaml").write_text(SOUND, encoding="utf-8")
    (tmp_path / "scoring.py").write_text(SCORING, encoding="utf-8")
    (tmp_path / "data.jsonl").write_text('{"question": "a", "answer": "b"}\n', encoding="utf-8")
    return tmp_path


def findings(folder: Path, severity: str = "error") -> list[tuple[str, int, str]]:
    """File, line and text of what is wrong."""
    return [
        (problem.file.name, problem.line, f"expected {problem.expected}; came {problem.came}; {problem.remedy}")
        for problem in check_folder(folder).problems
        if problem.severity == severity
    ]


def test_a_sound_folder_is_left_alone(folder: Path) -> None:
    report = check_folder(folder)
    assert report.ok
    assert report.problems == ()
    assert report.tasks == ("sound",)


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("task: sound", "task: [", 3, "expected YAML"),
        ("task: sound", "task: sound: two", 1, "expected YAML"),
        ("task: sound", "task: mme", 1, "a name that lmms-eval does not have; came 'mme'"),
        ("task: sound", "task: a b", 1, "without comma, space"),
        ("task: sound", "task: 3", 1, "a name, or a list of tasks; came 3"),
        ("dataset_path: json\n", "", 1, "the key dataset_path"),
        ("doc_to_text: question\n", "", 1, "the key doc_to_text"),
        ("test_split: test\n", "", 1, "test_split or validation_split"),
        ("test_split: test", "test_split: dev", 6, "a split of data_files; came 'dev'"),
        ("test: data.jsonl", "test: gone.jsonl", 5, "no file gone.jsonl"),
        ("test: data.jsonl", "test: go*.jsonl", 5, "nothing fits go*.jsonl"),
        ("dataset_kwargs:\n  data_files:\n    test: data.jsonl\n", "", 2, "dataset_kwargs: data_files"),
        (
            "doc_to_text: question",
            "doc_to_text: qestion",
            7,
            "a column of data.jsonl: answer, question; came 'qestion'",
        ),
        ("scoring.target", "scoring.tarjet", 8, "did you mean target?"),
        ("scoring.target", "nowhere.target", 8, "the file nowhere.py"),
        ("scoring.target", "target", 8, "!function MODULE.NAME"),
        ("scoring.score", "scoring.target", 9, "a function of 2 arguments; came target in line 1 takes 1"),
        ("doc_to_text:", "doc_to_txt: x\ndoc_to_text:", 7, "did you mean doc_to_text?"),
        (
            "doc_to_text:",
            "doc_to_text: x\ndoc_to_text:",
            8,
            "'doc_to_text' again, first in line 7",
        ),
        ("test_split: test", "test_split: test\noutput_type: generate", 7, "did you mean generate_until?"),
        ("metric_list:", "output_type: multiple_choice\nmetric_list:", 10, "doc_to_choice with multiple_choice"),
        (
            "process_results: !function scoring.score",
            "doc_to_choice: [a]\noutput_type: multiple_choice",
            10,
            "process_results with multiple_choice",
        ),
        (
            "process_results: !function scoring.score\n",
            "",
            10,
            "a built-in metric, since there is no process_results",
        ),
        ("    aggregation: mean\n", "", 11, "an aggregation; came none for 'right'"),
        ("aggregation: mean", "aggregation: average", 12, "came 'average'; mean suits most"),
        ("aggregation: mean", "aggregation: !function scoring.mean", 12, "a function mean"),
        ("  - metric: right\n", "  - name: right\n", 11, "`metric: NAME`"),
        (SOUND[SOUND.index("metric_list") :], "", 9, "metric_list with process_results"),
        ("task: sound", "include: gone\ntask: sound", 1, "no 'gone' beside sound.yaml"),
        ("task: sound", "include: sound.yaml\ntask: sound", 1, "includes itself"),
        ("task: sound", "tag: a\ngroup: b\ntask: sound", 2, "`tag` or `group`; came both"),
        ("dataset_path: json", "dataset_path: ./gone", 2, "no folder ./gone"),
    ],
)
def test_each_fault_is_found_at_its_line(folder: Path, before: str, after: str, line: int, said: str) -> None:
    assert before in SOUND
    (folder / "sound.yaml").write_text(SOUND.replace(before, after, 1), encoding="utf-8")
    found = findings(folder)
    assert any(file == "sound.yaml" and at == line and said in text for file, at, text in found), found
    assert not check_folder(folder).ok


def test_a_fault_in_a_template_is_found_in_the_template(folder: Path) -> None:
    (folder / "_base").write_text("dataset_path: json\ndoc_to_txt: a\n", encoding="utf-8")
    (folder / "sound.yaml").write_text(SOUND.replace("dataset_path: json", "include: _base"), encoding="utf-8")
    ((file, line, text),) = findings(folder)
    assert (file, line) == ("_base", 2)
    assert "did you mean doc_to_text" in text


def test_bad_documents_are_found_at_their_line(folder: Path) -> None:
    (folder / "data.jsonl").write_text('{"question": "a", "answer": 1}\n\n[1]\n{"question":\n', encoding="utf-8")
    assert [(file, line) for file, line, _ in findings(folder)] == [("data.jsonl", 3), ("data.jsonl", 4)]
    (folder / "data.jsonl").write_text("\n", encoding="utf-8")
    assert [(file, line) for file, line, _ in findings(folder)] == [("data.jsonl", 1)]


def test_python_that_cannot_be_parsed_is_found_at_its_line(folder: Path) -> None:
    (folder / "scoring.py").write_text("import os\n\ndef target(doc:\n    pass\n", encoding="utf-8")
    assert [(file, line) for file, line, _ in findings(folder)] == [("scoring.py", 3)]


def test_names_that_a_python_file_makes_in_other_ways_are_found(folder: Path) -> None:
    code = "try:\n    from os import path as target\nexcept ImportError:\n    target = None\nscore = print\n"
    (folder / "scoring.py").write_text(code, encoding="utf-8")
    assert findings(folder) == []


def test_no_code_of_the_user_runs(folder: Path) -> None:
    mark = folder / "ran"
    code = f"open({str(mark)!r}, 'w').close()\n{SCORING}"
    (folder / "scoring.py").write_text(code, encoding="utf-8")
    (folder / "evil.yaml").write_text("task: !!python/object/apply:os.system [true]\n", encoding="utf-8")
    assert [file for file, _, _ in findings(folder)] == ["evil.yaml"]
    assert not mark.exists()


def test_two_tasks_of_one_name(folder: Path) -> None:
    (folder / "twice.yaml").write_text(SOUND, encoding="utf-8")
    ((file, line, text),) = findings(folder)
    assert (file, line) == ("twice.yaml", 1)
    assert "first in sound.yaml:1" in text


GROUP = """\
group: mine
task:
  - sound
  - mme
  - task: sound
    num_fewshot: 2
  - task: inline
    dataset_path: json
    dataset_kwargs: {data_files: {test: data.jsonl}}
    test_split: test
    doc_to_text: question
    doc_to_target: answer
aggregate_metric_list:
  - metric: right
    weight_by_size: true
"""


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("  - mme", "  - mne_sound", 4, "a task, group or tag that exists; came 'mne_sound'"),
        ("num_fewshot: 2", "fewshots: 2", 6, "a key that lmms-eval knows"),
        ("  - mme", "  - 7", 4, "a name, or a task of its own; came 7"),
        ("group: mine\n", "", 1, "`group: NAME`"),
        ("group: mine", "group: mme_group\nnum_fewshoot: 2", 2, "did you mean num_fewshot?"),
        ("  - metric: right", "  - name: right", 14, "`metric: NAME`"),
        ("weight_by_size: true", "aggregation: median", 15, "mean or a !function; came 'median'"),
        ("    doc_to_target: answer\n", "", 7, "the key doc_to_target"),
        ("doc_to_text: question", "doc_to_text: qestion", 11, "a column of data.jsonl"),
        ("test: data.jsonl", "test: gone.jsonl", 9, "no file gone.jsonl"),
        ("  - mme", "  - mine", 2, "contains itself"),
    ],
)
def test_each_fault_of_a_group_is_found_at_its_line(
    folder: Path, before: str, after: str, line: int, said: str
) -> None:
    (folder / "mine.yaml").write_text(GROUP, encoding="utf-8")
    assert findings(folder) == []
    (folder / "mine.yaml").write_text(GROUP.replace(before, after, 1), encoding="utf-8")
    found = findings(folder)
    assert any(file == "mine.yaml" and at == line and said in text for file, at, text in found), found


def test_a_file_that_is_nothing_is_warned_of(folder: Path) -> None:
    (folder / "loose.yaml").write_text("dataset_path: json\n", encoding="utf-8")
    assert [(file, line) for file, line, _ in findings(folder, "warning")] == [("loose.yaml", 1)]
    assert check_folder(folder).ok
    (folder / "sound.yaml").write_text(SOUND.replace("task:", "include: loose.yaml\ntask:"), encoding="utf-8")
    assert findings(folder, "warning") == []


def test_a_direction_that_is_not_stated_is_warned_of(folder: Path) -> None:
    (folder / "sound.yaml").write_text(SOUND.replace("    higher_is_better: true\n", ""), encoding="utf-8")
    assert [(file, line) for file, line, _ in findings(folder, "warning")] == [("sound.yaml", 11)]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"",
        b"- a\n",
        b"[" * 100_000,
        b"a: &a [*a]\n",
        b"group: odd\ntask: &a\n  - {task: *a}\n",
        b"#" * 3_000_000,
        b"- " * 100_000,
        b"a: &a [1]\nb: [" + b"*a, " * 100 + b"]\n",
    ],
)
def test_files_that_are_no_yaml_mapping_are_refused_by_name(folder: Path, content: bytes) -> None:
    (folder / "odd.yaml").write_bytes(content)
    found = {file for file, _, _ in findings(folder)} | {file for file, _, _ in findings(folder, "warning")}
    assert found == {"odd.yaml"}


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    assert [problem.expected for problem in check_folder(tmp_path).problems] == ["task files (*.yaml)"]
    with pytest.raises(InvalidRequestError, match="not a folder"):
        check_folder(tmp_path / "nowhere")


def test_of_lmms_evals_own_tasks_few_are_wrong_and_all_for_a_reason() -> None:
    """Its 1,716 files are a large sound folder: whatever is found in many of them would be our mistake."""
    tasks = installed_tasks_folder()
    assert tasks is not None
    report = check_folder(tasks)
    assert len(report.tasks) > 1700
    wrong = [problem for problem in report.problems if problem.severity == "error"]
    expected = (
        "a function ",
        "process_results with multiple_choice",
        "each key once",
        "each name once",
        "a data file",
        "data files",
        "a task, group or tag that exists",
        "a built-in metric",
        "`metric: NAME`",
        "bits_per_byte, ",
    )
    assert [problem for problem in wrong if not problem.expected.startswith(expected)] == []
    assert len(wrong) < 120
