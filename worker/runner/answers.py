"""What lmms-eval's own cache does not keep of answers: sampled ones, and every answer's token counts.

Empty answers are kept nowhere: they are asked again.

Owns one SQLite file per run and task. An answer is found by lmms-eval's own cache key (task, document, prompt,
settings, model) and by its number among equal requests, so that repeats stay apart.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AnswerKey = tuple[str, int]


class AnswerStore:
    """Answers by key and repeat; what was kept survives a kill."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS answers (key TEXT, repeat INTEGER, answer TEXT, PRIMARY KEY (key, repeat))"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS counts (key TEXT, repeat INTEGER, counts TEXT, PRIMARY KEY (key, repeat))"
        )
        rows = self._database.execute("SELECT key, repeat, answer FROM answers")
        self._answers: dict[AnswerKey, Any] = {(key, repeat): json.loads(answer) for key, repeat, answer in rows}

        rows = self._database.execute("SELECT key, repeat, counts FROM counts")
        self._counts: dict[AnswerKey, dict[str, int]] = {(key, again): json.loads(own) for key, again, own in rows}

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
