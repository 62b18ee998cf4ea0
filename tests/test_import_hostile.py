"""Files that nobody may trust: each is refused with its path and the reason, and those beside it are still read."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import output_folders as outputs
import pytest
from output_folders import DATE, SCORES, row, rows, sound, write_results, write_samples

from mlflow_lmms.importing import json_files
from mlflow_lmms.importing.discovery import discover
from mlflow_lmms.importing.read_tasks import ReadOptions, read_tasks
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.importing.results_file import read_results_file
from mlflow_lmms.scrubbing import Scrubber

Break = Callable[[Path], object]


def text(content: str | bytes) -> Break:
    """The file has this content."""
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def changed(change: Callable[[str], str]) -> Break:
    """The sound file's text is changed."""
    return lambda path: path.write_text(change(path.read_text()))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def out_of_the_folder(path: Path) -> None:
    target = path.parent.parent.parent / "elsewhere.json"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


RESULTS: dict[str, tuple[Break, str]] = {
    "empty": (text(""), "ends too early"),
    "truncated": (changed(lambda whole: whole[:400]), "ends too early"),
    "no JSON": (text("results: yes"), "no JSON"),
    "a list": (text("[]"), "expected a JSON object"),
    "no results": (text('{"results": {}}'), "expected an object `results`"),
    "results are a list": (text('{"results": [1]}'), "expected an object `results`"),
    "a task is a number": (text('{"results": {"a": 1}}'), "expected an object for task 'a'"),
    "a task is called as a path": (text('{"results": {"../../etc/passwd": {"acc,none": 1}}}'), "no name of a task"),
    "a task has a line break": (text('{"results": {"a\\nb": {"acc,none": 1}}}'), "no name of a task"),
    "NaN": (text('{"results": {"a": {"acc,none": NaN}}}'), "not a finite number"),
    "Infinity": (text('{"results": {"a": {"acc,none": -Infinity}}}'), "not a finite number"),
    "a number beyond all floats": (text('{"results": {"a": {"acc,none": 1e999}}}'), "not a finite number"),
    "a number of thousands of digits": (text('{"results": {"a": {"acc,none": %s}}}' % ("9" * 5000)), "digits"),
    "nested deeply": (text('{"results":' + "[" * 100_000), "nested too deeply"),
    "nested somewhat deeply": (text('{"results": {"a": {}}, "x": ' + "[" * 90 + "]" * 90 + "}"), "levels deep"),
    "10^6 keys": (text(json.dumps({"results": {f"t{n}": {"acc,none": 1} for n in range(600_000)}})), "keys"),
    "many metrics": (text(json.dumps({"results": {"a": {f"m{n},none": 1 for n in range(5000)}}})), "entries"),
    "another encoding": (text('{"results": {"é": {}}}'.encode("latin-1")), "not UTF-8"),
    "UTF-16": (text('{"results": {}}'.encode("utf-16")), "byte order mark"),
    "a byte order mark": (text(b'\xef\xbb\xbf{"results": {"a": {"acc,none": 1}}}'), "byte order mark"),
    "compressed": (text(gzip.compress(b"0" * 1_000_000)), "compressed"),
    "huge": (lambda path: os.truncate(path, json_files.DOCUMENT_LIMIT + 1), "larger than 64 MiB"),
    "a pipe": (fifo, "no regular file"),
    "a link out of the folder": (out_of_the_folder, "leads out of the folder"),
    "a link to itself": (loop, "link"),
}
SAMPLES: dict[str, tuple[Break, str]] = {
    "empty": (text(""), "empty"),
    "truncated": (changed(lambda whole: whole[:-40]), "line 10: the JSON ends too early"),
    "no JSON": (changed(lambda whole: "hello\n" + whole), "line 1: it is no JSON"),
    "a number": (changed(lambda whole: whole + "7\n"), "line 11: expected a JSON object"),
    "no doc_id": (changed(lambda whole: whole + "{}\n"), "line 11: expected a whole number as doc_id"),
    "doc_id far away": (changed(lambda whole: whole.replace('"doc_id": 3', '"doc_id": 99999999999')), "line 4"),
    "doc_id below zero": (changed(lambda whole: whole.replace('"doc_id": 3', '"doc_id": -3')), "line 4"),
    "NaN": (changed(lambda whole: whole.replace('"exact_match": 1.0', '"exact_match": NaN', 1)), "finite"),
    "Infinity": (changed(lambda whole: whole.replace('"exact_match": 1.0', '"exact_match": Infinity', 1)), "finite"),
    "nested deeply": (text('{"doc_id": 0, "resps": ' + "[" * 100_000 + "\n"), "nested too deeply"),
    "10^6 keys": (text(json.dumps({f"k{n}": 1 for n in range(1_000_000)})), "line 1"),
    "another encoding": (changed(lambda whole: whole), "not UTF-8"),
    "a byte order mark": (changed(lambda whole: "\ufeff" + whole), "byte order mark"),
    "compressed": (text(gzip.compress(b"0" * 1_000_000)), "compressed"),
    "one huge line": (lambda path: os.truncate(path, 3 * json_files.LINE_LIMIT), "longer than 16 MiB"),
    "a pipe": (fifo, "no regular file"),
    "a link out of the folder": (out_of_the_folder, "leads out of the folder"),
    "a link to itself": (loop, "link"),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_results_file_is_refused_and_its_neighbour_is_read(case: str, tmp_path: Path) -> None:
    break_it, reason = RESULTS[case]
    bad = sound(tmp_path / "outputs" / "bad")
    sound(tmp_path / "outputs" / "good")
    break_it(bad)
    found = discover([tmp_path / "outputs"])
    refused = dict(found.refused)
    good = []
    for one in found.runs:
        try:
            good.append(read_results_file(one.results))
        except RefusedFileError as error:
            refused[error.path] = error.reason
    assert list(refused) == [bad]
    assert reason in refused[bad]
    assert [own.path.parent.name for own in good] == ["good"]


@pytest.mark.parametrize("case", SAMPLES)
def test_a_samples_file_is_refused_and_its_results_are_read_without_it(case: str, tmp_path: Path) -> None:
    break_it, reason = SAMPLES[case]
    folder = tmp_path / "outputs" / "run"
    scores = {"exact_match,none": 0.8}
    bad = write_samples(folder, "bad_vqa", rows())
    write_samples(folder, "good_vqa", rows())
    write_results(folder, {"bad_vqa": scores, "good_vqa": scores})
    break_it(bad)
    if case == "another encoding":
        bad.write_bytes(json.dumps(row(0, filtered_resps="é"), ensure_ascii=False).encode("latin-1"))
    found = discover([tmp_path / "outputs"])
    refused = dict(found.refused)
    (one,) = found.runs

    def note(error: RefusedFileError) -> None:
        refused[error.path] = error.reason

    options = ReadOptions(on_refused=note)
    tasks = {task.name: task for _, task in read_tasks(one, read_results_file(one.results), Scrubber(), options)}
    assert list(refused) == [bad]
    assert reason in refused[bad]
    assert {name: task.documents for name, task in tasks.items()} == {"bad_vqa": 0, "good_vqa": len(SCORES)}
    assert [warning.name for warning in tasks["bad_vqa"].warnings] == ["samples_missing"]
    assert not tasks["good_vqa"].warnings


def test_folders_that_lead_in_circles_are_left(tmp_path: Path) -> None:
    sound(tmp_path / "outputs" / "run")
    (tmp_path / "outputs" / "run" / "again").symlink_to(tmp_path / "outputs", target_is_directory=True)
    found = discover([tmp_path / "outputs"])
    assert len(found.runs) == 1
    assert [(path.name, reason) for path, reason in found.skipped] == [
        ("again", "a link to a folder: name the folder itself")
    ]


def test_a_file_that_is_reached_twice_counts_once(tmp_path: Path) -> None:
    path = sound(tmp_path / "run")
    assert len(discover([tmp_path, tmp_path / "run", path]).runs) == 1


def test_what_belongs_to_no_results_file_is_said(tmp_path: Path) -> None:
    sound(tmp_path)
    alone = write_samples(tmp_path, "other", rows(), name="20240101_000000_samples_other.jsonl")
    packed = tmp_path / f"{DATE}_samples_x.jsonl.gz"
    packed.write_bytes(gzip.compress(b"{}"))
    (tmp_path / "trainer_state.json").write_text("{}")
    found = discover([tmp_path])
    assert dict(found.skipped) == {
        alone: "no results file of the same date lies beside it",
        packed: "it is compressed: unpack it first",
    }
    assert not found.refused


def test_results_of_other_programs_are_skipped_and_not_refused(tmp_path: Path) -> None:
    (tmp_path / "eval_results.json").write_text('{"eval_loss": 0.5}')
    (tmp_path / "all_results.json").write_text("{broken")
    found = discover([tmp_path])
    assert [path.name for path, _ in found.skipped] == ["eval_results.json"]
    (one,) = found.runs
    with pytest.raises(RefusedFileError, match="no JSON"):
        read_results_file(one.results)


def test_a_task_that_the_results_do_not_know_is_refused(tmp_path: Path) -> None:
    sound(tmp_path)
    stray = write_samples(tmp_path, "stray", rows())
    (one,) = discover([tmp_path]).runs
    with pytest.raises(RefusedFileError, match="says nothing of this task") as told:
        list(read_tasks(one, read_results_file(one.results), Scrubber(), ReadOptions()))
    assert told.value.path == stray


def test_memory_and_time_do_not_grow_with_one_texts_length(tmp_path: Path) -> None:
    lines = rows()
    lines[0]["input"] = "a" * 3_000_000
    lines[1]["target"] = "api_key" * 200_000
    write_samples(tmp_path, "my_vqa", lines)
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    (one,) = discover([tmp_path]).runs
    ((_, task),) = read_tasks(one, read_results_file(one.results), Scrubber(), ReadOptions())
    assert task.documents == 10


@pytest.mark.parametrize("version", outputs.VERSIONS)
def test_the_sound_folders_give_no_warning(version: str, tmp_path: Path) -> None:
    outputs.VERSIONS[version](tmp_path)
    (one,) = discover([tmp_path]).runs
    read = list(read_tasks(one, read_results_file(one.results), Scrubber(), ReadOptions()))
    assert [task.warnings for _, task in read] == [()]
