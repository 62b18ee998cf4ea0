"""Lets each HTTP request to a limited service wait until the worker grants it, whatever client sends it.

Owns the wrapping of the HTTP clients that lmms-eval's adapters and judges send with: each request counts, retries of
an adapter included. How often requests are granted, over the whole fleet, is the worker's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from worker.runner.events import EventWriter
from worker.runner.failures import TaskFailure
from worker.runner.progress import Progress
from worker.runner.request import Rate

GRANT_VARIABLE = "LMMS_GRANT_FD"
_STILL_WAITING_S = 2.0
#: HTTP clients: module, class, the method that every request goes through, whether that is a coroutine.
_CLIENTS = (
    ("httpx", "Client", "send", False),
    ("httpx", "AsyncClient", "send", True),
    ("httpx2", "Client", "send", False),
    ("httpx2", "AsyncClient", "send", True),
    ("requests", "Session", "send", False),
    ("aiohttp", "ClientSession", "_request", True),
)


class RequestRate:
    """Asks for each request to the endpoint, and waits."""

    def __init__(self, rate: Rate, descriptor: int, events: EventWriter, progress: Progress) -> None:
        self._endpoint = rate.endpoint
        self._descriptor = descriptor
        self._events = events
        self._progress = progress
        self._granted = threading.Semaphore(0)
        self._asked = 0
        self._by_call = False

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
        for module, name, method, is_async in _CLIENTS:
            if importlib.util.find_spec(module) is not None:
                client = getattr(importlib.import_module(module), name)
                send = getattr(client, method)
                setattr(client, method, self._async_in_turn(send) if is_async else self._in_turn(send))

    def _in_turn(self, send: Any) -> Any:
        def send_in_turn(own: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_limited(args, kwargs):
                self.take()
            return send(own, *args, **kwargs)

        return send_in_turn

    def _async_in_turn(self, send: Any) -> Any:
        async def send_in_turn(own: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_limited(args, kwargs):
                await asyncio.to_thread(self.take)
            return await send(own, *args, **kwargs)

        return send_in_turn

    @contextlib.contextmanager
    def covering(self, requests: int) -> Iterator[None]:
        """Around a call of an adapter: one that sends by a client of another kind asks for each call instead."""
        if self._by_call:
            self.take(requests)
        before = self._asked
        yield
        if not self._by_call and self._asked == before:
            self._by_call = True
            self._events.log(
                "WARNING",
                f"the adapter sends its requests to {self._endpoint} in a way that is not known here: they are "
                "counted by chunk, without its retries",
            )

    def take(self, requests: int = 1) -> None:
        """Wait for leave to send requests. To wait is no lack of progress."""
        self._asked += requests
        self._events.ask(requests)
        for _ in range(requests):
            while not self._granted.acquire(timeout=_STILL_WAITING_S):
                self._progress.steps += 1
            self._progress.steps += 1

    def _hear(self) -> None:
        with os.fdopen(self._descriptor, encoding="ascii") as lines:
            for line in lines:
                self._granted.release(int(line))

    def _is_limited(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Look for the address: of a request object, or (aiohttp) after the method's name."""
        request = kwargs.get("request", args[0] if args else None)
        address = getattr(request, "url", None) or kwargs.get("str_or_url") or (args[1] if len(args) > 1 else "")
        parts = urlsplit(str(address))
        host = parts.hostname or ""
        return self._endpoint in (host, f"{host}:{parts.port}")
