"""The box's fetcher as the supervisor sees it: one process of its own, started again when it ends."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time

from mlflow_lmms.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_HEALTHY_AFTER_S = 60.0
_GRACE_S = 5.0


class FetcherProcess:
    """Runs ``worker.fetcher``. Call all of it from one thread, whose end ends the fetcher."""

    def __init__(self, settings: Settings, cache: str) -> None:
        self._settings, self._cache = settings, cache
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._pause_s = _FIRST_PAUSE_S

    @property
    def pid(self) -> int | None:
        """The fetcher's process, while there is one."""
        return self._process.pid if self._process is not None else None

    def tend(self) -> None:
        """Start it if it is not there. Without a download cache the box needs none."""
        if not self._cache or not self._settings.prefetch:
            return
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            healthy = now - self._started_at > _HEALTHY_AFTER_S
            self._pause_s = _FIRST_PAUSE_S if healthy else min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._start_at = now + self._pause_s
            logger.error("the fetcher ended with code %s; again in %.0f s", code, self._pause_s)
        if self._process is None and now >= self._start_at:
            self._start()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.fetcher"],
            stdin=subprocess.PIPE,
            cwd=self._settings.data_folder.absolute() / "worker",
            start_new_session=True,  # Ctrl-C is for the supervisor
        )
        told = {"settings": self._settings.model_dump(mode="json"), "cache": self._cache, "supervisor": os.getpid()}
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stdin:
                stdin.write(json.dumps(told).encode())
        except BrokenPipeError:
            logger.error("the fetcher ended while it was starting")

    def stop(self) -> None:
        """End it and what it runs."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
