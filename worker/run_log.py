"""The log of one part: every line scrubbed, kept on disk as JSON lines, and passed on in batches while it runs."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import StorageFullError
from mlflow_lmms.names import Artifact
from mlflow_lmms.scrubbing import Scrubber

logger = logging.getLogger(__name__)

_TAIL_LINES = 100
_BATCH_BYTES = 64 * 1024
_BATCH_S = 0.2

Line = dict[str, Any]


class RunLog:
    """Appends to one file; `publish` gets the lines of at most 0.2 s or 64 KB together."""

    def __init__(self, file: Path, scrubber: Scrubber, publish: Callable[[list[Line]], None]) -> None:
        self._path = file
        self._scrub = scrubber.scrub
        self._publish = publish
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._batch: list[Line] = []
        self._batch_bytes = 0
        self._batch_since = 0.0
        self._full = False
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", encoding="utf-8", buffering=1)

    def add(
        self, level: str, message: str, *, phase: str | None = None, rank: int = 0, at: float | None = None
    ) -> None:
        """Add one message.

        Raises:
            StorageFullError: there is no space left for it; told once, later messages are only passed on.
        """
        text = self._scrub(message)
        line = {
            "time": time.time() if at is None else at,
            "level": level,
            "phase": phase,
            "rank": rank,
            "message": text,
        }
        written = json.dumps(line, ensure_ascii=False)
        self._tail.append(f"{level} {text}")
        self._batch_since = self._batch_since if self._batch else time.monotonic()
        self._batch.append(line)
        self._batch_bytes += len(written)
        if self._batch_bytes >= _BATCH_BYTES:
            self.flush()
        self._write(written)

    def _write(self, line: str) -> None:
        if self._full:
            return
        try:
            self._file.write(line + "\n")
        except OSError as error:
            self._full = True
            raise StorageFullError(
                f"the log {self._path} cannot be written ({error.strerror}): free some space there, or give the "
                "worker another folder with MLFLOW_LMMS_DATA_FOLDER"
            ) from None

    def flush(self, *, due_only: bool = False) -> None:
        """Pass the collected lines on; with `due_only` only when the first of them is old enough."""
        if self._batch and not (due_only and time.monotonic() - self._batch_since < _BATCH_S):
            self._publish(self._batch)
            self._batch, self._batch_bytes = [], 0

    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._tail)

    def close(self) -> None:
        """Pass the rest on and close the file."""
        self.flush()
        with suppress(OSError):  # a full disk has been told already
            self._file.close()


def fetch_log(run_id: str, file: Path, server_url: str) -> None:
    """Begin the log with that of the earlier attempts, which may have run on another box; none is no trouble."""
    try:
        there = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=Artifact.LOG, dst_path=str(file.parent), tracking_uri=server_url
        )
        Path(there).replace(file)
    except (MlflowException, OSError) as error:
        logger.info("no earlier log of run %s: %s", run_id, error)
