"""The ASGI app in front: live events answered here, ``/lmms`` by our Flask app, everything else by MLflow's app.

What has to hold for all three stands here: peers, hosts, origins, the request's memory of who is calling, the size of
a request, and what starts and stops with the server process.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plugin_ui.asgi_answers import refuse
from plugin_ui.authentication import remember_caller
from plugin_ui.event_endpoint import PATH as EVENTS_PATH
from plugin_ui.event_endpoint import EventEndpoint
from plugin_ui.event_hub import EventHub
from plugin_ui.origin_guard import Headers, OriginGuard, is_loopback, read_headers

OUR_PATH = "/lmms"
LARGEST_BODY = 64 * 2**20


@dataclass(frozen=True)
class FrontApp:
    """The app that ``mlflow server --app-name lmms`` serves.

    Attributes:
        mlflow_app: MLflow's own ASGI app.
        our_app: our Flask app as ASGI.
        events: the endpoint of live events, and `hub` what it reads from.
        guard: the rules on hosts and origins.
        prefix: MLflow's ``--static-prefix``.
        loopback_only: nobody has to sign in, so only this machine may call.
        on_start: called once before the first request.
        on_stop: called once after the last one.
    """

    mlflow_app: ASGIApp
    our_app: ASGIApp
    events: EventEndpoint
    hub: EventHub
    guard: OriginGuard
    prefix: str
    loopback_only: bool
    on_start: Sequence[Callable[[], None]]
    on_stop: Sequence[Callable[[], None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or the life of the process."""
        if scope["type"] == "lifespan":
            await self.mlflow_app(scope, receive, self._with_lifespan(send))
            return
        path = self._our_path(scope)
        headers = read_headers(scope["headers"])
        if reason := self._refused(scope, headers, path):
            await refuse(scope, receive, send, 403, "NotAllowedError", reason)
            return
        await remember_caller(headers.get("authorization", ""))
        if path is None:
            await self.mlflow_app(scope, receive, send)
        elif path.startswith(EVENTS_PATH):
            await self.events.serve(path, scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse(scope, receive, send, 404, "NotFoundError", f"there is no WebSocket under {path}")
        elif bad := _bad_length(headers):
            await refuse(scope, receive, send, bad[0], "InvalidRequestError", bad[1])
        else:
            root = scope.get("root_path", "") + self.prefix
            await self.our_app({**scope, "root_path": root}, receive, send)

    def _our_path(self, scope: Scope) -> str | None:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith(self.prefix):
            return None
        path = path[len(self.prefix) :]
        return path if path == OUR_PATH or path.startswith(f"{OUR_PATH}/") else None

    def _refused(self, scope: Scope, headers: Headers, path: str | None) -> str | None:
        client = scope.get("client")
        if self.loopback_only and client and not is_loopback(client[0]):
            return "nobody has to sign in here, so this server answers only to its own machine"
        if path is not None and (reason := self.guard.bad_host(headers)):
            return reason  # MLflow's own app checks the host of its own paths
        reads_too = path is not None and path.startswith(EVENTS_PATH)
        return self.guard.bad_origin(scope.get("method", "WEBSOCKET"), headers, guard_reads=reads_too)

    def _with_lifespan(self, send: Send) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.hub.start()
                _before_termination(self.hub.end_streams)
                for start in self.on_start:
                    start()
            elif message["type"].startswith("lifespan.shutdown"):
                await self.hub.close()
                for stop in self.on_stop:
                    stop()
            await send(message)

        return watched


def _before_termination(end_streams: Callable[[], None]) -> None:
    """End the open streams as soon as the process is told to stop: uvicorn waits for its connections first."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, previous: object = previous) -> None:
            loop.call_soon_threadsafe(end_streams)
            if callable(previous):
                previous(number, frame)

        signal.signal(number, stop)


def _bad_length(headers: Headers) -> tuple[int, str] | None:
    """Why a body is refused before it is read: the bridge to Flask holds all of it in memory."""
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        return 411, "expected a body of stated length (Content-Length), got one in chunks"
    if not length.isdecimal() or int(length) > LARGEST_BODY:
        return 413, f"expected at most {LARGEST_BODY} bytes, got {length[:20]}"
    return None
