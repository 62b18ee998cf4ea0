"""Live events of runs in Redis streams: one per run, and one feed with the state and score changes of all runs.

An entry carries the part and its fencing token; readers drop entries of an older token of the same part.
Streams are for watching only: the record is the MLflow run, its log an artifact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mlflow_lmms.errors import UnavailableError

Kind = Literal["state", "phase", "progress", "score", "log", "gpu"]

FEED_KEY = "lmms:feed"
_RUN_LENGTH = 10_000
_FEED_LENGTH = 10_000
_KEEP_S = 24 * 3600


def stream_key(run_id: str) -> str:
    """Key of one run's stream."""
    return f"lmms:events:{run_id}"


@dataclass(frozen=True)
class Event:
    """One entry of a stream; `id` is the stream's own, by which reading resumes. `time` is in unix seconds."""

    id: str
    kind: str
    data: dict[str, Any]
    part: str | None
    token: int | None
    time: float

    @staticmethod
    def from_fields(entry_id: str, fields: Mapping[str, str]) -> Event:
        """Read the fields as Redis holds them (decoded text)."""
        return Event(
            id=entry_id,
            kind=fields["kind"],
            data=json.loads(fields["data"]),
            part=fields.get("part") or None,
            token=int(fields["token"]) if fields.get("token") else None,
            time=float(fields["time"]),
        )


class TokenFilter:
    """Drops entries that a part's former owner wrote after it had lost the part."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def accepts(self, part: str | None, token: int | None) -> bool:
        """Whether an entry of this part and token is still current; remembers the largest token seen."""
        if part is None or token is None:
            return True
        if token < self._newest.get(part, 0):
            return False
        self._newest[part] = token
        return True


class EventLog:
    """Writes and reads the streams."""

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def append(
        self,
        run_id: str,
        kind: Kind,
        data: Mapping[str, Any],
        *,
        part: str | None = None,
        token: int | None = None,
        feed: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an entry to the run's stream, and with `feed` (which needs ``experiment_id``) also to the feed of all.

        Raises:
            UnavailableError: Redis does not answer.
        """
        fields: dict[Any, Any] = {"kind": kind, "time": repr(time.time()), "data": json.dumps(data)}
        if part is not None:
            fields["part"] = part
        if token is not None:
            fields["token"] = token
        try:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xadd(stream_key(run_id), fields, maxlen=_RUN_LENGTH, approximate=True)
            pipeline.expire(stream_key(run_id), _KEEP_S)
            if feed is not None:
                entry: dict[Any, Any] = {**fields, "data": json.dumps({**data, **feed, "run_id": run_id})}
                pipeline.xadd(FEED_KEY, entry, maxlen=_FEED_LENGTH, approximate=True)
            pipeline.execute()
        except redis.RedisError as error:
            raise UnavailableError(f"the queue server does not take live events: {error}") from None

    def read(self, run_id: str, after: str = "0-0", count: int = 1000) -> list[Event]:
        """Entries after the id `after`, oldest first; empty when there are none now.

        Raises:
            UnavailableError: Redis does not answer.
        """
        try:
            answer: Any = self._redis.xrange(stream_key(run_id), min=f"({after}", count=count)
        except redis.RedisError as error:
            raise UnavailableError(f"the queue server does not answer: {error}") from None
        return [Event.from_fields(entry_id, fields) for entry_id, fields in answer]

    def exists(self, run_id: str) -> bool:
        """Whether the run's stream is still there (it goes a day after the last entry).

        Raises:
            UnavailableError: Redis does not answer.
        """
        try:
            return bool(self._redis.exists(stream_key(run_id)))
        except redis.RedisError as error:
            raise UnavailableError(f"the queue server does not answer: {error}") from None
