"""Reading JSON that a stranger wrote: bounded in size, depth and number of keys, UTF-8 and regular files only.

Owns the bounds. What the JSON means is the callers' business.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_lmms.importing.refused_file import RefusedFileError

#: Of one whole document, and of one line of a JSONL file.
DOCUMENT_LIMIT = 64 * 1024 * 1024
LINE_LIMIT = 16 * 1024 * 1024
MOST_KEYS = 200_000
MOST_KEYS_OF_A_ROW = 2_000
DEEPEST = 40

_GZIP, _ZIP, _ZSTD = b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which may never end, is refused.

    Raises:
        RefusedFileError: with the reason.
    """
    try:
        # Not blocking: opening a pipe would wait for its writer for ever.
        handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise RefusedFileError(path, f"it cannot be opened ({error.strerror or error})") from None
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise RefusedFileError(path, "it is no regular file")
    return handle


def read_document(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a file that is one JSON object; return it with the bytes that it was.

    Raises:
        RefusedFileError: with the reason.
    """
    with open_regular(path) as handle:
        content = handle.read(DOCUMENT_LIMIT + 1)
    if len(content) > DOCUMENT_LIMIT:
        raise RefusedFileError(path, f"it is larger than {DOCUMENT_LIMIT >> 20} MiB, which no results file is")
    check_beginning(path, content[:4])
    document = _object(path, content, "")
    refuse_excess(path, document)
    return document, content


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a JSONL file: the number and the object of each line; empty lines are left out.

    Raises:
        RefusedFileError: with the reason and the line, after the lines before it.
    """
    with open_regular(path) as handle:
        for number, line in enumerate(iter(lambda: handle.readline(LINE_LIMIT + 1), b""), start=1):
            if number == 1:
                check_beginning(path, line[:4])
            if len(line) > LINE_LIMIT:
                raise RefusedFileError(
                    path, f"line {number} is longer than {LINE_LIMIT >> 20} MiB, which no sample is"
                )
            if line.isspace():
                continue
            row = _object(path, line, f"line {number}: ")
            if len(row) > MOST_KEYS_OF_A_ROW:
                raise RefusedFileError(path, f"line {number} has {len(row)} keys, more than {MOST_KEYS_OF_A_ROW}")
            yield number, row


def check_beginning(path: Path, start: bytes) -> None:
    """Refuse what is no plain UTF-8 text by its first bytes.

    Raises:
        RefusedFileError: with the reason.
    """
    if start.startswith((_GZIP, _ZIP, _ZSTD)):
        raise RefusedFileError(path, "it is compressed: unpack it first")
    if start.startswith(_BYTE_ORDER_MARKS):
        raise RefusedFileError(path, "it begins with a byte order mark: save it as UTF-8 without one")


def _object(path: Path, content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RefusedFileError(path, f"{where}it is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        told = "the JSON ends too early" if cut else f"it is no JSON: {error.msg} at column {error.colno}"
        raise RefusedFileError(path, f"{where}{told}") from None
    except RecursionError:
        raise RefusedFileError(path, f"{where}its JSON is nested too deeply") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise RefusedFileError(path, f"{where}{error}") from None
    if not isinstance(found, dict):
        raise RefusedFileError(path, f"{where}expected a JSON object, got {type(found).__name__}")
    return found


def refuse_excess(path: Path, document: Any) -> None:
    """Refuse a document that is nested too deeply or has too many keys.

    Raises:
        RefusedFileError: with the reason.
    """
    keys = 0
    level = [document]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                keys += len(value)
                inner.extend(item for item in value.values() if isinstance(item, dict | list))
            elif isinstance(value, list):
                inner.extend(item for item in value if isinstance(item, dict | list))
        if keys > MOST_KEYS:
            raise RefusedFileError(path, f"it has more than {MOST_KEYS:,} keys")
        if not inner:
            return
        level = inner
    raise RefusedFileError(path, f"its JSON is nested more than {DEEPEST} levels deep")


def plain(value: Any) -> Any:
    """Return `value` with null in place of what JSON cannot say (NaN, infinity)."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
