"""Live events for any number of readers from one Redis connection per process.

One task reads all streams that somebody follows, from concrete ids (never ``$``, which loses what arrives between two
reads). A reader first catches up from its own last id and then joins, without a gap and without a repetition; one
that does not keep up is told to come back. It knows neither HTTP nor who may read what.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from mlflow_lmms.live_events import Event, TokenFilter
from plugin_ui.event_frames import (
    AVAILABLE,
    EXPIRED,
    RECONNECT,
    TRIMMED,
    UNAVAILABLE,
    Frame,
    entry_frame,
    entry_order,
)

START = "0-0"
_BLOCK_MS = 2000
_TIMEOUT_S = 4.0
_PAGE = 500
_LOOK_BACK = 100
_RETRY_S = (0.25, 0.5, 1.0, 2.0)
_CATCH_UPS_AT_ONCE = 8

_log = logging.getLogger(__name__)


class EventHub:
    """Call `start` inside the event loop before anything else, `close` at the end."""

    def __init__(self, redis_url: str, *, queue_size: int = 512) -> None:
        self._redis: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._queue_size = queue_size
        self._streams: dict[str, _Stream] = {}
        self._new_stream = asyncio.Event()
        self._catch_ups = asyncio.Semaphore(_CATCH_UPS_AT_ONCE)
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin reading."""
        self._task = asyncio.get_running_loop().create_task(self._read_forever(), name="lmms-event-hub")

    def end_streams(self) -> None:
        """End what everybody follows: a server that stops would otherwise wait for its readers."""
        self._closed = True
        for stream in self._streams.values():
            for reader in stream.readers:
                reader.news.set()

    async def close(self) -> None:
        """Stop reading and let go of Redis."""
        self.end_streams()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._redis.aclose()

    async def follow(
        self, key: str, after: str | None, *, ended: bool = False, heartbeat_s: float = 15.0
    ) -> AsyncGenerator[list[Frame]]:
        """Batches of frames for ever; an empty batch says that nothing came for a while.

        Args:
            key: the stream's key.
            after: the last id that the reader has; None for only what comes from now on.
            ended: nobody writes to the stream any more: without a stream there is nothing to wait for.
            heartbeat_s: how long an empty batch waits for something.
        """
        reader = _Reader(key, after, self._queue_size)
        try:
            async for frames in self._catch_up(reader, ended):
                yield reader.current(frames)
                if EXPIRED in frames:
                    return
            while not self._closed:
                frames = reader.current(await reader.take(heartbeat_s))
                if reader.too_slow:
                    yield [*frames, RECONNECT]
                    return
                yield frames
        finally:
            self._leave(reader)

    def readers(self, key: str) -> int:
        """How many follow a stream live."""
        stream = self._streams.get(key)
        return 0 if stream is None else len(stream.readers)

    async def _catch_up(self, reader: _Reader, ended: bool) -> AsyncIterator[list[Frame]]:
        failures = 0
        while not self._closed:
            try:
                async with self._catch_ups:
                    frames = await (self._page(reader) if reader.looked else self._look(reader, ended))
            except RedisError as error:
                if failures == 0:
                    _log.warning("live events are unavailable: %s", error)
                yield [UNAVAILABLE] if failures == 0 else []
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            yield [AVAILABLE, *frames] if failures else frames
            failures = 0
            if reader.joined:
                return

    async def _look(self, reader: _Reader, ended: bool) -> list[Frame]:
        """Find out where to begin, and which tokens the reader would know if it had read everything before."""
        try:
            stream: dict[str, Any] = await self._redis.xinfo_stream(reader.key)
        except ResponseError:  # there is no such stream (yet)
            reader.begin(reader.position or START)
            return [EXPIRED] if ended else []
        position = reader.position or str(stream["last-generated-id"])
        newest_first: Any = await self._redis.xrevrange(reader.key, position, "-", count=_LOOK_BACK)
        reader.begin(position, known=reversed(_frames(newest_first)))
        first = stream["first-entry"]
        lost = first and entry_order(first[0]) > reader.last and stream["entries-added"] > stream["length"]
        return [TRIMMED] if lost else []

    async def _page(self, reader: _Reader) -> list[Frame]:
        """The next entries of the history; the last page joins the live ones."""
        page = _frames(await self._redis.xrange(reader.key, f"({reader.position}", "+", count=_PAGE))
        if page:
            reader.position = page[-1].id
        if len(page) == _PAGE:
            return page
        stream = self._join(reader)
        # The live entries after stream.position wait for the reader from here on; those up to it are still missing.
        if entry_order(stream.position) > entry_order(reader.position or START):
            missing = await self._redis.xrange(reader.key, f"({reader.position}", stream.position)
            page += _frames(missing)
        reader.joined = True
        return page

    def _join(self, reader: _Reader) -> _Stream:
        stream = self._streams.get(reader.key)
        if stream is None:
            stream = self._streams[reader.key] = _Stream(reader.position or START)
            self._new_stream.set()
        stream.readers.add(reader)
        return stream

    def _leave(self, reader: _Reader) -> None:
        stream = self._streams.get(reader.key)
        if stream is not None:
            stream.readers.discard(reader)
            if not stream.readers:
                del self._streams[reader.key]

    async def _read_forever(self) -> None:
        failures = 0
        while True:
            self._new_stream.clear()
            if not self._streams:
                await self._new_stream.wait()
                continue
            try:
                answer = await self._read_once()
            except RedisError as error:
                if failures == 0:
                    _log.warning("live events are unavailable: %s", error)
                    self._tell_all(UNAVAILABLE)
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
                continue
            if failures:
                self._tell_all(AVAILABLE)
            failures = 0
            self._hand_out(answer)

    async def _read_once(self) -> Any:
        """Wait for entries of all streams; a new stream cuts the waiting short (nothing is lost)."""
        positions: dict[Any, Any] = {key: stream.position for key, stream in self._streams.items()}
        read = asyncio.ensure_future(self._redis.xread(positions, count=_PAGE, block=_BLOCK_MS))
        new_stream = asyncio.ensure_future(self._new_stream.wait())
        try:
            await asyncio.wait({read, new_stream}, return_when=asyncio.FIRST_COMPLETED)
            return read.result() if read.done() else None
        finally:
            for task in (read, new_stream):
                task.cancel()
            await asyncio.gather(read, new_stream, return_exceptions=True)

    def _hand_out(self, answer: Any) -> None:
        for key, entries in _by_stream(answer):
            stream = self._streams.get(key)
            if stream is None or not entries:
                continue
            frames = _frames(entries)
            stream.position = frames[-1].id
            for reader in stream.readers:
                reader.put(frames)

    def _tell_all(self, notice: Frame) -> None:
        for stream in self._streams.values():
            for reader in stream.readers:
                reader.put([notice])


class _Reader:
    """One follower: where it stands and what waits for it."""

    def __init__(self, key: str, after: str | None, limit: int) -> None:
        self.key = key
        self.position = after
        self.looked = self.joined = self.too_slow = False
        self.last = (0, 0)
        self.news = asyncio.Event()
        self._limit = limit
        self._tokens = TokenFilter()
        self._waiting: deque[Frame] = deque()

    def begin(self, position: str, known: Iterable[Frame] = ()) -> None:
        """Start after `position`, with the tokens of the entries before it."""
        self.position, self.last, self.looked = position, entry_order(position), True
        for frame in known:
            self._tokens.accepts(frame.owner, frame.token)

    def put(self, frames: list[Frame]) -> None:
        """Let frames wait for the reader. One that does not fetch them gets none after the first that it missed."""
        self.too_slow = self.too_slow or len(self._waiting) + len(frames) > self._limit + _PAGE
        if not self.too_slow:
            self._waiting.extend(frames)
        self.news.set()

    async def take(self, timeout_s: float) -> list[Frame]:
        """All that waits; nothing when nothing came for `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.news.wait()
        self.news.clear()
        frames = list(self._waiting)
        self._waiting.clear()
        return frames

    def current(self, frames: Iterable[Frame]) -> list[Frame]:
        """The frames that the reader has not had yet and that no former owner of their part wrote."""
        fresh = []
        for frame in frames:
            if frame.id and frame.order <= self.last:
                continue
            if frame.id:
                self.last = frame.order
            if self._tokens.accepts(frame.owner, frame.token):
                fresh.append(frame)
        return fresh


@dataclass
class _Stream:
    position: str
    readers: set[_Reader] = field(default_factory=set)


def _frames(entries: Any) -> list[Frame]:
    return [entry_frame(Event.from_fields(entry_id, fields)) for entry_id, fields in entries]


def _by_stream(answer: Any) -> list[tuple[str, Any]]:
    if not answer:
        return []
    if isinstance(answer, dict):  # RESP3: {key: [entries]}
        return [(key, entries[0]) for key, entries in answer.items()]
    return [(key, entries) for key, entries in answer]
