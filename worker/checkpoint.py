"""The answers so far as an artifact of the run, so that another box goes on where this one stopped.

One archive per owner of a part, named by its fencing token: a worker that lost the part can put only its own beside
the newer one, and the newest is taken. What is in it are answers of the model, and its arguments (which hold no
secret: the server refuses those).
"""

from __future__ import annotations

import logging
import re
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_lmms.names import Artifact
from mlflow_lmms.worker_api_client import HeldPart
from worker.cache_copy import COPY_ERRORS, Fingerprint, copy_cache, fingerprint

logger = logging.getLogger(__name__)

_ARCHIVE = re.compile(r"(?P<part>[^/]+)\.(?P<token>\d+)\.tar\.gz")
_FASTEST = 1
_AWAY = (MlflowException, requests.RequestException, OSError)
#: An upload that is under way at the end may take this long more.
_LAST_WORD_S = 15.0


class Checkpoint:
    """Stores and restores the answers of one part; what goes wrong is told and costs no more than repeated work."""

    def __init__(
        self, client: MlflowClient, held: HeldPart, cache: Path, most_mb: int, say: Callable[[str, str], None]
    ) -> None:
        """Prepare; `say` takes level and message."""
        self._client = client
        self._held = held
        self._cache = cache
        self._most_bytes = most_mb * 1_000_000
        self._say = say
        self._saved: Fingerprint = {}
        self._too_large = False
        self._lock = threading.Lock()

    def restore(self, newer_than: int) -> bool:
        """Put the newest stored answers into the cache, if an owner after token `newer_than` stored some."""
        try:
            token = max((known for known in self._stored() if newer_than < known < self._held.token), default=None)
            if token is None:
                return False
            with tempfile.TemporaryDirectory(dir=self._cache.parent) as folder:
                path = f"{Artifact.CHECKPOINT}/{self._name(token)}"
                archive = self._client.download_artifacts(self._held.run_id, path, folder)
                self._unpack(Path(archive), Path(folder) / "cache")
        except (*_AWAY, tarfile.TarError, EOFError) as error:
            self._say("WARNING", f"the answers of an earlier attempt cannot be had, and are asked again: {error}")
            return False
        self._saved = fingerprint(self._cache)
        self._say("INFO", f"goes on from the checkpoint that attempt {token} stored with the run")
        return True

    def _unpack(self, archive: Path, fresh: Path) -> None:
        with tarfile.open(archive, "r:gz") as stored:
            stored.extractall(fresh, filter="data")
        shutil.rmtree(self._cache, ignore_errors=True)
        fresh.rename(self._cache)

    def save(self) -> bool:
        """Store the answers so far, unless nothing has changed; True when they were stored now."""
        with self._lock:
            now = fingerprint(self._cache)
            if not now or now == self._saved or self._too_large:
                return False
            try:
                with tempfile.TemporaryDirectory(dir=self._cache.parent) as folder:
                    archive = self._pack(Path(folder))
                    if archive is None:
                        return False
                    self._client.log_artifact(self._held.run_id, str(archive), Artifact.CHECKPOINT)
            except (*_AWAY, *COPY_ERRORS) as error:
                logger.warning("no checkpoint of run %s now: %s", self._held.run_id, error)
                return False
            self._saved = now
        self._remove(lambda token: token < self._held.token)
        return True

    def _pack(self, folder: Path) -> Path | None:
        copy_cache(self._cache, folder / "cache")
        archive = folder / self._name(self._held.token)
        with tarfile.open(archive, "w:gz", compresslevel=_FASTEST) as packed:
            for path in sorted((folder / "cache").iterdir()):
                packed.add(path, path.name)
        size = archive.stat().st_size
        if size <= self._most_bytes:
            return archive
        self._too_large = True
        self._say(
            "WARNING",
            f"the answers so far take {size / 1e6:.0f} MB, more than the {self._most_bytes / 1e6:.0f} MB of "
            "MLFLOW_LMMS_CHECKPOINT_MB: if this box is lost they are asked again. Raise the limit, or let the boxes "
            "share a folder with MLFLOW_LMMS_CACHE_FOLDER",
        )
        return None

    @property
    def used(self) -> bool:
        """Whether it has stored or restored anything."""
        return bool(self._saved)

    def remove(self) -> None:
        """Forget what this owner and those before it stored: the part has its results."""
        self._remove(lambda token: token <= self._held.token)

    def _remove(self, which: Callable[[int], bool]) -> None:
        try:
            gone = [token for token in self._stored() if which(token)]
            if not gone:
                return
            place = self._client.get_run(self._held.run_id).info.artifact_uri
            store = get_artifact_repository(place, tracking_uri=self._client.tracking_uri)
            for token in gone:
                store.delete_artifacts(f"{Artifact.CHECKPOINT}/{self._name(token)}")  # type: ignore[no-untyped-call]
        except (*_AWAY, NotImplementedError) as error:  # a user who may not delete, or a store that cannot
            logger.info("old checkpoints of run %s stay: %s", self._held.run_id, error)

    def _stored(self) -> list[int]:
        found = self._client.list_artifacts(self._held.run_id, Artifact.CHECKPOINT)
        names = (_ARCHIVE.fullmatch(entry.path.rpartition("/")[2]) for entry in found)
        return [int(name["token"]) for name in names if name and name["part"] == self._held.part]

    def _name(self, token: int) -> str:
        return f"{self._held.part}.{token}.tar.gz"


class CheckpointThread:
    """Saves a checkpoint every so often while the part runs."""

    def __init__(self, checkpoint: Checkpoint, every_s: float) -> None:
        self._checkpoint = checkpoint
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._thread.ident is not None

    def stop(self) -> None:
        """End; an upload that does not come to its end is left behind."""
        self._stopped.set()
        self._thread.join(_LAST_WORD_S)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._checkpoint.save()
