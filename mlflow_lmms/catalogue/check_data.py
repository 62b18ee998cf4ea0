"""Checks the data files of a task that brings its own: there, readable, with the split and the columns it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_lmms.catalogue.merged_document import MergedDocument
from mlflow_lmms.catalogue.problems import Problem
from mlflow_lmms.catalogue.requirements import LOCAL_BUILDERS, REMOTE
from mlflow_lmms.catalogue.yaml_lines import KeyPath

_COLUMN_KEYS = ("doc_to_text", "doc_to_target", "doc_to_choice")
_FEW = 5


def check_data(merged: MergedDocument) -> None:
    """Report what is wrong with a task's own data files."""
    config = merged.config
    path = config.get("dataset_path")
    options = config.get("dataset_kwargs")
    files = options.get("data_files") if isinstance(options, dict) else None
    if path not in LOCAL_BUILDERS:
        if isinstance(path, str) and path.startswith(("/", "./", "../")) and not _beside(merged, path).exists():
            merged.report(["dataset_path"], "a data set", f"no folder {path}", "correct the path")
        return
    if files is None:
        expected = f"dataset_kwargs: data_files, since dataset_path is the format {path}"
        merged.report(["dataset_path"], expected, "no data files", "name a file: data_files: {test: data.jsonl}")
        return
    _check_split(merged, files)
    for keys, name in _named(files, ("dataset_kwargs", "data_files")):
        if REMOTE.match(name) is None:
            _check_file(merged, keys, name)


def _check_split(merged: MergedDocument, files: Any) -> None:
    split_key = "test_split" if merged.config.get("test_split") is not None else "validation_split"
    split = str(merged.config.get(split_key) or "")
    splits = set(files) if isinstance(files, dict) else {"train"}
    if split and split.partition("[")[0] not in splits:
        came = f"{split!r}, and data_files has {', '.join(sorted(map(str, splits)))}"
        remedy = "name one of them; files without a name are the split `train`"
        merged.report([split_key], "a split of data_files", came, remedy)


def _check_file(merged: MergedDocument, keys: KeyPath, name: str) -> None:
    file = _beside(merged, name)
    if any(sign in name for sign in "*?["):
        if not list(file.parent.glob(file.name)):
            merged.report(keys, "data files", f"nothing fits {name}", "correct the pattern")
    elif not file.is_file():
        remedy = f"put it beside {merged.writer('dataset_kwargs').path.name}, or correct the name"
        merged.report(keys, "a data file", f"no file {name}", remedy)
    elif merged.config.get("dataset_path") == "json" and file.suffix in (".jsonl", ".ndjson"):
        _check_lines(merged, file)


def _check_lines(merged: MergedDocument, file: Path) -> None:
    columns: set[str] = set()
    wrong = rows = 0
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            complaint, found = _row(line)
            if complaint is not None and wrong < _FEW:
                wrong += 1
                problem = Problem(file, number, "error", "one JSON object a line", complaint, "correct the line")
                merged.problems += [problem] if problem not in merged.problems else []
            columns |= found
            rows += 1
    if not rows:
        problem = Problem(file, 1, "error", "documents", "an empty file", "write one JSON object a line")
        merged.problems += [problem] if problem not in merged.problems else []
    elif not wrong:
        _check_columns(merged, file, columns)


def _row(line: str) -> tuple[str | None, set[str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return str(error), set()
    return (None, set(row)) if isinstance(row, dict) else (f"a {type(row).__name__}", set())


def _check_columns(merged: MergedDocument, file: Path, columns: set[str]) -> None:
    for key in _COLUMN_KEYS:
        value = merged.config.get(key)
        if isinstance(value, str) and value.isidentifier() and value not in columns:
            expected = f"a column of {file.name}: {', '.join(sorted(columns)[:8])}"
            remedy = "name a column, or write {{column}}: as it is, the word itself is taken"
            merged.report([key], expected, repr(value), remedy, warn="process_docs" in merged.config)


def _named(files: Any, above: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(files, str):
        yield above, files
    elif isinstance(files, list):
        for at, item in enumerate(files):
            yield from _named(item, (*above, at))
    elif isinstance(files, dict):
        for split, item in files.items():
            yield from _named(item, (*above, str(split)))


def _beside(merged: MergedDocument, name: str) -> Path:
    """Where lmms-eval looks: beside the file that wrote it, then beside the one that includes it."""
    written = merged.writer("dataset_kwargs").path.parent / name
    return written if written.exists() else merged.path.parent / name
