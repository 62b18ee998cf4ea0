"""Live events for browsers and programs: server-sent events and WebSocket, in pure ASGI in front of MLflow's app.

``/lmms/events/runs/<run id>`` replays one run and follows it; ``/lmms/events/feed`` has the state and score changes
of all runs that the caller may read, from now on. Reading resumes after ``Last-Event-ID`` (or ``?after=``).
Who may read is asked before the stream opens, and again every minute while it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar
from urllib.parse import parse_qs

from flask import Flask
from mlflow.exceptions import MlflowException
from starlette.types import Receive, Scope, Send

from mlflow_lmms.errors import InvalidRequestError, LmmsError, NotFoundError
from mlflow_lmms.live_events import FEED_KEY, stream_key
from plugin_ui import mlflow_server, permissions
from plugin_ui.asgi_answers import refuse
from plugin_ui.event_frames import Frame
from plugin_ui.event_hub import START, EventHub
from plugin_ui.origin_guard import read_headers

PATH = "/lmms/events/"
_RUN_PATH = re.compile(r"/lmms/events/runs/([0-9a-zA-Z_-]{1,64})")
_FEED_PATH = "/lmms/events/feed"
_ENTRY_ID = re.compile(r"\d{1,19}-\d{1,19}")
_ASK_AGAIN_S = 60.0
_SEND_TIMEOUT_S = 30.0
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Subscription:
    """What a caller was let in to, and what is known of the caller's permissions."""

    key: str
    after: str | None
    ended: bool
    username: str | None
    experiment_id: str | None
    asked_at: float = field(default_factory=time.monotonic)
    answers: dict[str, bool] = field(default_factory=dict)


class EventEndpoint:
    """One per server process."""

    def __init__(self, hub: EventHub, app: Flask, is_ended: Callable[[str], bool]) -> None:
        """Serve from `hub`; `app` knows how callers sign in, `is_ended` whether a run gets no more events."""
        self._hub = hub
        self._app = app
        self._is_ended = is_ended
        # Not the pool of MLflow's pages: passwords are checked here, at 100 ms each.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="lmms-events")

    async def serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection; `path` is without the static prefix."""
        is_websocket = scope["type"] == "websocket"
        try:
            if not is_websocket and scope["method"] != "GET":
                raise InvalidRequestError(f"live events are read with GET, got {scope['method']}")
            subscription = await self._in_thread(self._admit, path, scope)
        except LmmsError as error:
            await refuse(scope, receive, send, error.http_status, type(error).__name__, error.message)
        except MlflowException as error:
            await refuse(scope, receive, send, mlflow_server.http_status(error), "MlflowException", error.message)
        else:
            stream = _serve_websocket if is_websocket else _serve_events
            async with contextlib.aclosing(self._follow(subscription)) as batches:
                await stream(batches, receive, send)

    def _admit(self, path: str, scope: Scope) -> Subscription:
        headers, query = read_headers(scope["headers"]), parse_qs(scope["query_string"].decode("latin-1"))
        after = headers.get("last-event-id") or next(iter(query.get("after", [])), None)
        if after is not None and not _ENTRY_ID.fullmatch(after):
            raise InvalidRequestError(f"expected the id of an event like 1718000000000-0, got {after!r}")
        wanted = headers.get(mlflow_server.WORKSPACE_HEADER.lower()) or next(iter(query.get("workspace", [])), None)
        with self._app.test_request_context(path, headers=[*headers.items()]):
            mlflow_server.enter_workspace(path, wanted)
            return self._subscription(path, after)

    def _subscription(self, path: str, after: str | None) -> Subscription:
        username = permissions.caller().username
        if path == _FEED_PATH:
            return Subscription(FEED_KEY, after, False, username, None)
        run = _RUN_PATH.fullmatch(path)
        if run is None:
            raise NotFoundError(f"there are no live events under {path}")
        experiment_id = permissions.require_run(permissions.READ, run[1])
        return Subscription(stream_key(run[1]), after or START, self._is_ended(run[1]), username, experiment_id)

    async def _follow(self, subscription: Subscription) -> AsyncGenerator[list[Frame]]:
        follow = self._hub.follow(subscription.key, subscription.after, ended=subscription.ended)
        async with contextlib.aclosing(follow) as batches:
            async for frames in batches:
                if subscription.experiment_id and not await self.may_read(subscription, subscription.experiment_id):
                    return
                yield [
                    frame
                    for frame in frames
                    if frame.experiment_id is None or await self.may_read(subscription, frame.experiment_id)
                ]

    async def may_read(self, subscription: Subscription, experiment_id: str) -> bool:
        """Whether the subscriber may read an experiment, as asked at most a minute ago."""
        if subscription.username is None:
            return True
        if time.monotonic() - subscription.asked_at > _ASK_AGAIN_S:
            subscription.answers.clear()
            subscription.asked_at = time.monotonic()
        if experiment_id not in subscription.answers:
            may = await self._in_thread(_allowed, experiment_id, subscription.username)
            subscription.answers[experiment_id] = may
        return subscription.answers[experiment_id]

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: context.run(call, *args, **kwargs))


def _allowed(experiment_id: str, username: str) -> bool:
    try:
        return permissions.allowed(permissions.READ, experiment_id, username)
    except MlflowException:  # the user is gone
        return False


async def _serve_events(batches: AsyncIterator[list[Frame]], receive: Receive, send: Send) -> None:
    async def write() -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        await _send(send, {"type": "http.response.body", "body": b"retry: 2000\n\n", "more_body": True})
        async for frames in batches:
            body = b"".join(frame.sse for frame in frames) or b": nothing new\n\n"
            await _send(send, {"type": "http.response.body", "body": body, "more_body": True})
        await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    await _until_gone(write(), receive, "http.disconnect")


async def _serve_websocket(batches: AsyncIterator[list[Frame]], receive: Receive, send: Send) -> None:
    async def write() -> None:
        await send({"type": "websocket.accept"})
        async for frames in batches:
            for frame in frames:
                await _send(send, {"type": "websocket.send", "text": frame.text})
        await _send(send, {"type": "websocket.close", "code": 1001})

    await receive()  # websocket.connect
    await _until_gone(write(), receive, "websocket.disconnect")


async def _send(send: Send, message: dict[str, object]) -> None:
    async with asyncio.timeout(_SEND_TIMEOUT_S):
        await send(message)


async def _until_gone(writing: Awaitable[None], receive: Receive, gone: str) -> None:
    """Write until all is written, the client leaves, or it takes nothing for half a minute."""

    async def leave() -> None:
        while (await receive())["type"] != gone:
            pass

    writer, leaver = asyncio.ensure_future(writing), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({writer, leaver}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        writer.cancel()
        leaver.cancel()
        results = await asyncio.gather(writer, leaver, return_exceptions=True)
    for result in results:
        # What a broken connection raises while it is written to says only that the client is gone.
        if isinstance(result, Exception) and not isinstance(result, OSError | TimeoutError):
            raise result
