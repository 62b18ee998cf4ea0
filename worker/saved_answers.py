"""Where the answers so far of a part lie, and how another attempt gets them: wherever it runs.

In the folder that all boxes share where there is one; else on this box, with checkpoints beside the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from mlflow_lmms.settings import Settings
from mlflow_lmms.work_order import WorkOrder
from mlflow_lmms.worker_api_client import HeldPart
from worker.checkpoint import Checkpoint, CheckpointThread
from worker.shared_cache import SharedCache
from worker.spool import Spool


class SavedAnswers:
    """The answers of one work order."""

    def __init__(
        self,
        order: WorkOrder,
        spool: Spool,
        settings: Settings,
        client: MlflowClient | None,
        say: Callable[[str, str], None],
    ) -> None:
        """Prepare; without `client` there are no checkpoints. `say` is called from a thread, too."""
        self._order = order
        self._spool = spool
        self._shared = SharedCache(settings.cache_folder, order.run_id, order.part) if settings.cache_folder else None
        self._checkpoint: Checkpoint | None = None
        self._thread: CheckpointThread | None = None
        if client is not None and self._shared is None and order.checkpoint and settings.checkpoint_mb:
            held = HeldPart(order.run_id, order.part, order.token)
            self._checkpoint = Checkpoint(client, held, spool.cache, settings.checkpoint_mb, say)
            self._thread = CheckpointThread(self._checkpoint, settings.checkpoint_every_s)

    def open(self) -> Path:
        """The folder that the runner reads answers from and writes them to.

        Raises:
            StorageFullError: it cannot be written to.
        """
        if self._shared is not None:
            return self._shared.take_over(self._order.token)
        if self._checkpoint is not None and self._order.attempt > 1:
            self._checkpoint.restore(newer_than=self._spool.cache_token)
        self._spool.own_cache(self._order.token)
        if self._thread is not None:
            self._thread.start()
        return self._spool.cache

    def close(self) -> None:
        """Nothing is written any more."""
        if self._thread is not None and self._thread.started:
            self._thread.stop()

    def keep(self) -> None:
        """Let another box go on from here."""
        if self._checkpoint is not None:
            self._checkpoint.save()

    def forget(self) -> None:
        """The part has its results."""
        if self._shared is not None:
            self._shared.remove(self._order.token)
        if self._checkpoint is not None and (self._checkpoint.used or self._order.attempt > 1):
            self._checkpoint.remove()
