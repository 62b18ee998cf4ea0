"""Reads the documents of a new benchmark: JSON lines with a question, a right answer and names of media files.

Owns what is refused, with the line. Knows nothing of lmms-eval.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any

from mlflow_lmms.errors import InvalidRequestError

QUESTION_COLUMNS = ("question", "prompt", "instruction", "query", "text", "input")
ANSWER_COLUMNS = (
    "answer",
    "answers",
    "target",
    "label",
    "expected",
    "output",
    "reference",
    "ground_truth",
    "gt_answer",
)
CHOICE_COLUMNS = ("choices", "options")
SUFFIXES = {
    "image": frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}),
    "audio": frozenset({".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus"}),
    "video": frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi"}),
}
_OURS = ("question", "answer", "choices", "media", "kinds", "media_sha256")
_LARGEST_DIMENSION = 50
_SHOWN = 8


@dataclass(frozen=True)
class Columns:
    """Which columns the user named; None: found by their usual names."""

    question: str | None = None
    answer: str | None = None
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewDocument:
    """One document as the new task will have it."""

    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    media: tuple[str, ...]
    others: Mapping[str, Any]


@dataclass
class NewDocuments:
    """All documents, the kinds of media among them, and the columns that make slices."""

    documents: list[NewDocument]
    kinds: tuple[str, ...]
    dimensions: tuple[str, ...]
    media_files: dict[str, Path] = field(default_factory=dict)


def read_new_documents(source: Path, media: Path | None, columns: Columns) -> NewDocuments:
    """Read and check the documents of `source`, with the media files that they name below `media`.

    Raises:
        InvalidRequestError: everything that is wrong, by line; with what to do.
    """
    if media is not None and not media.is_dir():
        raise InvalidRequestError(f"--media {media} is not a folder: name the one that holds the files")
    reader = _Reader(source, None if media is None else media.resolve(), columns)
    documents = [document for document in map(reader.document, _lines(source)) if document is not None]
    if reader.complaints:
        more = len(reader.complaints) - _SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        raise InvalidRequestError("\n".join([*reader.complaints[:_SHOWN], *rest]))
    if not documents:
        raise InvalidRequestError(f"{source} has no documents: write one JSON object a line")
    kinds = tuple(dict.fromkeys(kind_of(name) for document in documents for name in document.media))
    return NewDocuments(documents, kinds, _dimensions(documents, columns, source), reader.files)


def kind_of(name: str) -> str:
    """Whether a file is an image, audio or video, by its suffix; empty for other files."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), "")


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    try:
        with source.open(encoding="utf-8") as lines:
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{source} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    except OSError as error:
        raise InvalidRequestError(f"{source} cannot be read: {error.strerror}: name a file of JSON lines") from None


class _Reader:
    """Turns lines into documents and collects complaints."""

    def __init__(self, source: Path, media: Path | None, columns: Columns) -> None:
        self._source = source
        self._media = media
        self._columns = columns
        self.complaints: list[str] = []
        self.files: dict[str, Path] = {}

    def document(self, numbered: tuple[int, str]) -> NewDocument | None:
        """One line as a document; None after a complaint."""
        number, line = numbered
        row = self._row(number, line)
        if row is None:
            return None
        question_column = self._column(number, row, "question", self._columns.question, QUESTION_COLUMNS)
        answer_column = self._column(number, row, "answer", self._columns.answer, ANSWER_COLUMNS)
        if question_column is None or answer_column is None:
            return None
        choices_column = next((name for name in CHOICE_COLUMNS if isinstance(row.get(name), list)), None)
        choices = _texts(row[choices_column]) if choices_column else ()
        answers = _texts(row[answer_column])
        if not answers:
            self._complain(number, f"{answer_column!r} holds no answer", "give a text, a number or a list of them")
            return None
        if choices and not _are_among(answers, choices):
            came = f"the answer {answers[0]!r} is neither one of the {len(choices)} choices nor a letter of one"
            self._complain(number, came, "write the choice's text or its letter (A is the first)")
            return None
        used = {question_column, answer_column, choices_column}
        media, media_columns = self._files(number, {key: value for key, value in row.items() if key not in used})
        others = {key: value for key, value in row.items() if key not in used | media_columns}
        for clash in others.keys() & set(_OURS):
            self._complain(number, f"the column {clash!r} is one that the new task writes itself", "rename it")
        return NewDocument(str(row[question_column]), answers, choices, media, others)

    def _row(self, number: int, line: str) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            self._complain(number, f"no JSON: {error.msg} at column {error.colno}", "write one JSON object a line")
            return None
        except (ValueError, RecursionError) as error:
            self._complain(number, f"no JSON that can be read: {error}", "write one JSON object a line")
            return None
        if not isinstance(row, dict):
            self._complain(number, f"expected a JSON object, got a {type(row).__name__}", "write {…} in each line")
            return None
        return row

    def _column(
        self, number: int, row: Mapping[str, Any], what: str, named: str | None, usual: Sequence[str]
    ) -> str | None:
        found = named if named is not None else next((name for name in usual if row.get(name) is not None), None)
        if found is not None and row.get(found) is not None:
            return found
        expected = repr(named) if named is not None else f"one of {', '.join(usual)}"
        came = ", ".join(row) or "nothing"
        self._complain(number, f"expected the column {expected}, got {came}", f"name yours: --{what} COLUMN")
        return None

    def _files(self, number: int, row: Mapping[str, Any]) -> tuple[tuple[str, ...], set[str]]:
        """The media that a line names, in the order of its columns, and those columns."""
        found: list[str] = []
        columns: set[str] = set()
        for column, value in row.items():
            names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            if names and all(isinstance(name, str) and kind_of(name) for name in names):
                columns.add(column)
                found += [name for name in map(str, names) if self._find(number, column, name)]
        return tuple(found), columns

    def _find(self, number: int, column: str, name: str) -> bool:
        if name in self.files:
            return True
        if self._media is None:
            self._complain(number, f"{column!r} names the file {name}", "say where it lies: --media FOLDER")
            return False
        file = (self._media / name).resolve()
        if not file.is_relative_to(self._media):
            self._complain(number, f"{column!r} names {name}, outside of {self._media}", "keep media in that folder")
        elif not file.is_file():
            self._complain(number, f"{column!r} names {name}, which is not in {self._media}", "add it, or correct it")
        elif kind_of(name) == "image" and (fault := _fault_of_image(file)) is not None:
            self._complain(
                number, f"{column!r} names {name}, which is no image that can be read: {fault}", "replace it"
            )
        elif file.stat().st_size == 0:
            self._complain(number, f"{column!r} names {name}, which is empty", "replace the file")
        else:
            self.files[name] = file
            return True
        return False

    def _complain(self, number: int, what: str, remedy: str) -> None:
        self.complaints.append(f"{self._source}:{number}: {what}: {remedy}")


def _fault_of_image(file: Path) -> str | None:
    """Why a file is no image; None when it is one, or when Pillow is not installed to tell."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return None
    try:
        with Image.open(file) as image:
            image.verify()
    except UnidentifiedImageError:
        return "not in a known format"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error)
    return None


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in values if isinstance(item, str | int | float) and str(item).strip())


def _are_among(answers: Sequence[str], choices: Sequence[str]) -> bool:
    letters = ascii_uppercase[: len(choices)]
    known = {choice.strip().casefold() for choice in choices} | set(letters.casefold())
    return len(choices) <= len(ascii_uppercase) and all(answer.strip().casefold() in known for answer in answers)


def _dimensions(documents: Sequence[NewDocument], columns: Columns, source: Path) -> tuple[str, ...]:
    names = dict.fromkeys(name for document in documents for name in document.others)
    if unknown := [name for name in columns.dimensions if name not in names]:
        known = ", ".join(names) or "none"
        raise InvalidRequestError(f"{source} has no column {unknown[0]!r} for --dimension: its others are {known}")
    return columns.dimensions or tuple(name for name in names if _is_dimension(documents, name))


def _is_dimension(documents: Sequence[NewDocument], name: str) -> bool:
    """Whether a column sorts the documents: few values, each with several documents."""
    values = [document.others.get(name) for document in documents]
    if not all(value is None or isinstance(value, str | int | bool) for value in values):
        return False
    distinct = set(values)
    return 2 <= len(distinct) <= min(_LARGEST_DIMENSION, len(values) // 2)
