"""Lets each HTTP request to a limited service wait until the worker grants it, whatever client sends it.

Owns the wrapping of the HTTP clients that lmms-eval's adapters and judges send with: each request counts, retries of
an adapter included. How often requests are granted, over the whole fleet, is the worker's matter.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from worker.runner.events import EventWriter
from worker.runner.failures import TaskFailure
from worker.runner.progress import Progress
from worker.runner.request import Rate

GRANT_VARIABLE = "LMMS_GRANT_FD"
_STILL_WAITING_S = 2.0


class RequestRate:
    """Asks for each request to the endpoint, and waits."""

    def __init__(self, rate: Rate, descriptor: int, events: EventWriter, progress: Progress) -> None:
        self._endpoint = rate.endpoint
        self._descriptor = descriptor
        self._events = events
        self._progress = progress
        self._granted = threading.Semaphore(0)

    @classmethod
    def from_environment(
        cls, rate: Rate, environment: Mapping[str, str], events: EventWriter, progress: Progress
    ) -> RequestRate:
        """Take the descriptor that the worker named in ``LMMS_GRANT_FD``."""
        text = environment.get(GRANT_VARIABLE, "")
        try:
            descriptor = int(text)
            os.fstat(descriptor)
        except (ValueError, OSError, OverflowError) as error:
            raise TaskFailure(
                "unknown",
                f"requests to {rate.endpoint} are limited, but {GRANT_VARIABLE} names no open file descriptor "
                f"({text!r}); the runner is started by the worker, which passes the descriptor",
            ) from error
        os.set_inheritable(descriptor, False)
        return cls(rate, descriptor, events, progress)

    def install(self) -> None:
        """Let every request of this process to the endpoint wait its turn from now on."""
        threading.Thread(target=self._hear, name="grants", daemon=True).start()
        for module, client in (("httpx", "Client"), ("requests", "Session")):
            self._wrap(getattr(importlib.import_module(module), client))
        self._wrap_async(importlib.import_module("httpx").AsyncClient)

    def _wrap(self, client: Any) -> None:
        send = client.send

        def send_in_turn(own: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_limited(request):
                self.take()
            return send(own, request, *args, **kwargs)

        client.send = send_in_turn

    def _wrap_async(self, client: Any) -> None:
        send = client.send

        async def send_in_turn(own: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_limited(request):
                await asyncio.to_thread(self.take)
            return await send(own, request, *args, **kwargs)

        client.send = send_in_turn

    def take(self) -> None:
        """Wait for leave to send one request. To wait is no lack of progress."""
        self._events.ask(1)
        while not self._granted.acquire(timeout=_STILL_WAITING_S):
            self._progress.steps += 1
        self._progress.steps += 1

    def _hear(self) -> None:
        with os.fdopen(self._descriptor, encoding="ascii") as lines:
            for line in lines:
                self._granted.release(int(line))

    def _is_limited(self, request: Any) -> bool:
        parts = urlsplit(str(request.url))
        host = parts.hostname or ""
        return self._endpoint in (host, f"{host}:{parts.port}")
