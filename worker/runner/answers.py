"""What lmms-eval's own cache does not keep of answers: sampled ones, and every answer's token counts.

Empty answers are kept nowhere: they are asked again.

Owns one SQLite file per run and task, and one more for each rank of a run with several processes: a rank reads the
common file and its own, and writes its own. An answer is found by lmms-eval's own cache key (task, document, prompt,
settings, model) and by its number among equal requests, so that repeats stay apart.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AnswerKey = tuple[str, int]
_COMMON = "answers.db"


class AnswerStore:
    """Answers by key and repeat; what was kept survives a kill."""

    def __init__(self, folder: Path, rank: int | None = None) -> None:
        """Open the common file of a task's folder; with a `rank`, read that and open the rank's own."""
        folder.mkdir(parents=True, exist_ok=True)
        self._answers: dict[AnswerKey, Any] = {}
        self._counts: dict[AnswerKey, dict[str, int]] = {}
        common = folder / _COMMON
        if rank is not None and common.exists():
            with contextlib.closing(_open(common)) as kept:
                self._read(kept)
        self._database = _open(common if rank is None else folder / f"answers.{rank}.db")
        self._read(self._database)

    def _read(self, database: sqlite3.Connection) -> None:
        rows = database.execute("SELECT key, repeat, answer FROM answers")
        self._answers |= {(key, repeat): json.loads(answer) for key, repeat, answer in rows}
        rows = database.execute("SELECT key, repeat, counts FROM counts")
        self._counts |= {(key, again): json.loads(own) for key, again, own in rows}

    def __contains__(self, key: AnswerKey) -> bool:
        return key in self._answers

    def __getitem__(self, key: AnswerKey) -> Any:
        return self._answers[key]

    def counts(self, key: AnswerKey) -> dict[str, int] | None:
        """The token counts of an answer, wherever it is kept."""
        return self._counts.get(key)

    def keep(self, answers: Mapping[AnswerKey, Any], counts: Mapping[AnswerKey, dict[str, int]]) -> None:
        """Store answers and token counts, all or none."""
        rows = [(key, repeat, json.dumps(answer, default=str)) for (key, repeat), answer in answers.items()]
        counted = [(key, repeat, json.dumps(own)) for (key, repeat), own in counts.items()]
        if not rows and not counted:
            return
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
            self._database.executemany("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", counted)
        self._answers.update({(key, repeat): json.loads(answer) for key, repeat, answer in rows})
        self._counts.update(counts)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def collect_rank_files(folder: Path) -> None:
    """Move what ranks have kept into the common file; no rank may be at work."""
    files = sorted(folder.glob("answers.*.db"))
    if not files:
        return
    with contextlib.closing(_open(folder / _COMMON)) as common:
        for file in files:
            _open(file).close()  # one that was killed at its start has no tables
            common.execute("ATTACH ? AS own", (str(file),))
            with common:
                common.execute("INSERT OR IGNORE INTO answers SELECT * FROM own.answers")
                common.execute("INSERT OR IGNORE INTO counts SELECT * FROM own.counts")
            common.execute("DETACH own")
    for file in files:
        file.unlink()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE IF NOT EXISTS answers (key TEXT, repeat INTEGER, answer TEXT, PRIMARY KEY (key, repeat))"
    )
    database.execute(
        "CREATE TABLE IF NOT EXISTS counts (key TEXT, repeat INTEGER, counts TEXT, PRIMARY KEY (key, repeat))"
    )
    return database
