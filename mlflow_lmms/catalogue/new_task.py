"""Writes a new benchmark: task file, scoring code, documents and media, in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow_lmms.catalogue.build import read_catalogue
from mlflow_lmms.catalogue.index import Catalogue
from mlflow_lmms.catalogue.new_documents import NewDocuments, kind_of
from mlflow_lmms.catalogue.task_templates import scoring_code, task_yaml
from mlflow_lmms.errors import InvalidRequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
SCORING = "scoring"
DATA = "data.jsonl"
MEDIA = "media"


def check_name(name: str, catalogue: Catalogue | None = None) -> None:
    """Refuse a name that cannot be a new task's.

    Raises:
        InvalidRequestError: what a name is, or who has this one.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidRequestError(
            f"a task's name is letters, digits and _ . + -, beginning with a letter or digit, got {name!r}"
        )
    known = catalogue or read_catalogue([])
    kind = known.kind(name)
    if kind is not None:
        where = (
            known.group_files[name].path if kind == "group" else known.tasks[name].path if kind == "task" else "tag"
        )
        raise InvalidRequestError(f"there is a {kind} {name!r} already ({where}): choose another name")


def write_task(name: str, folder: Path, new: NewDocuments) -> Path:
    """Write all files of the task into `folder`, which must be new or empty; return its task file.

    Raises:
        InvalidRequestError: the folder has something in it, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequestError(f"{folder} is there and not empty: name another folder with --into")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hashes = {
            media: _copy(file, folder / MEDIA / PurePosixPath(media)) for media, file in new.media_files.items()
        }
        with (folder / DATA).open("w", encoding="utf-8") as lines:
            for row in _rows(new, hashes):
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / f"{SCORING}.py").write_text(scoring_code(name, new.kinds), encoding="utf-8")
        file = folder / f"{name}.yaml"
        file.write_text(task_yaml(name, SCORING, new.kinds, new.dimensions), encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{folder} cannot be written: {error}: name another folder with --into") from None
    return file


def _rows(new: NewDocuments, hashes: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every row with every column, in one type each: the data sets library takes no others."""
    others = dict.fromkeys(name for document in new.documents for name in document.others)
    as_text = {name: _mixes_types([document.others.get(name) for document in new.documents]) for name in others}
    with_choices = any(document.choices for document in new.documents)
    for document in new.documents:
        row: dict[str, Any] = {"question": document.question, "answer": list(document.answers)}
        if with_choices:
            row["choices"] = list(document.choices)
        if new.kinds:
            row["media"] = list(document.media)
            row["kinds"] = [kind_of(name) for name in document.media]
            # A document is known by its content: a picture that changes makes it another one.
            row["media_sha256"] = [hashes[name] for name in document.media]
        for name in others:
            value = document.others.get(name)
            row[name] = _text(value) if as_text[name] and value is not None else value
        yield row


def _mixes_types(values: list[Any]) -> bool:
    return len({type(value) for value in values if value is not None}) > 1


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _copy(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with source.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
