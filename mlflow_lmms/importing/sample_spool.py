"""A file on disk that holds rows until all are there, and gives them back in order; memory stays the same.

Owns the file's form. What is in a row is the callers' business, so long as `marshal` takes it.
"""

from __future__ import annotations

import marshal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_AT_ONCE = 2_000
_OCCURRENCES = 256
#: One page cache of 4 MB, however many rows there are; the file is thrown away, so nothing is written twice.
_SETTINGS = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA cache_size = -4000",
    "PRAGMA temp_store = FILE",
)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in _SETTINGS:
        connection.execute(setting)
    return connection


class DocumentSpool:
    """Rows of documents, in any order; read back by document and occurrence."""

    def __init__(self, folder: Path) -> None:
        self._connection = _open(folder / "documents.db")
        self._connection.execute("CREATE TABLE rows (place INTEGER PRIMARY KEY, body BLOB)")
        self._connection.execute("BEGIN")
        self._waiting: list[tuple[int, bytes]] = []

    def add(self, doc_id: int, occurrence: int, body: tuple[Any, ...]) -> None:
        """Put one row in; (doc_id, occurrence) is unique, and there are at most 256 occurrences of a document."""
        self._waiting.append((doc_id * _OCCURRENCES + occurrence, marshal.dumps(body)))
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def documents(self) -> Iterator[tuple[int, list[tuple[int, Any]]]]:
        """Each document with its (occurrence, row) pairs, in order."""
        self._flush()
        current, rows = -1, list[tuple[int, Any]]()
        for place, body in self._connection.execute("SELECT place, body FROM rows ORDER BY place"):
            doc_id, occurrence = divmod(place, _OCCURRENCES)
            if doc_id != current and rows:
                yield current, rows
                rows = []
            current = doc_id
            rows.append((occurrence, marshal.loads(body)))  # noqa: S302 (our own file, written just now)
        if rows:
            yield current, rows

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def _flush(self) -> None:
        self._connection.executemany("INSERT INTO rows VALUES (?, ?)", self._waiting)
        self._waiting.clear()


class KeySpool:
    """Scores, and what stands beside them, by key, in any order; read back in the order of the keys."""

    def __init__(self, folder: Path) -> None:
        self._connection = _open(folder / "keys.db")
        self._connection.execute("CREATE TABLE keys (doc_hash TEXT, row_key TEXT, doc_id INTEGER, scores BLOB)")
        self._connection.execute("BEGIN")

    def add(self, rows: list[tuple[str | None, str, int, tuple[Any, ...]]]) -> None:
        """Put rows of (document hash, row key, document id, scores) in."""
        encoded = ((doc_hash, key, doc_id, marshal.dumps(scores)) for doc_hash, key, doc_id, scores in rows)
        self._connection.executemany("INSERT INTO keys VALUES (?, ?, ?, ?)", encoded)

    def sorted(self) -> Iterator[tuple[str | None, str, int, tuple[Any, ...]]]:
        """Every row, by document hash, row key and document id; rows without a hash last."""
        order = "ORDER BY doc_hash IS NULL, doc_hash, row_key, doc_id"
        for doc_hash, key, doc_id, scores in self._connection.execute(f"SELECT * FROM keys {order}"):  # noqa: S608
            yield doc_hash, key, doc_id, marshal.loads(scores)  # noqa: S302 (our own file)

    def row_keys(self) -> Iterator[str]:
        """The row keys alone, in their order."""
        for (key,) in self._connection.execute("SELECT row_key FROM keys ORDER BY row_key"):
            yield key

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()
