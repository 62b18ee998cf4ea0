"""A connection to the queue server that says in words when there is none. Whose keys are read is not known here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.settings import mask_password


class QueueConnection:
    """`redis` under a time limit, without retries: callers come again by themselves.

    Args:
        decoded: answers are text and not bytes (RQ takes bytes only).
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0, decoded: bool = True) -> None:
        self._address = mask_password(redis_url)
        self.redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=decoded,
        )

    @contextmanager
    def answering(self) -> Iterator[redis.Redis]:
        """The connection, for calls whose failure is an `UnavailableError`."""
        try:
            yield self.redis
        except redis.RedisError as error:
            raise UnavailableError(
                f"the queue server at {self._address} does not answer ({error}): start it, or correct "
                "MLFLOW_LMMS_REDIS_URL; `mlflow-lmms doctor` checks it"
            ) from None

    def now(self) -> float:
        """The queue server's clock, in unix seconds."""
        answer: Any = self.redis.time()
        return float(answer[0]) + float(answer[1]) / 1e6
