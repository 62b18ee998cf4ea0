"""Orders to fetch files beforehand, and what became of them, in Redis: the server orders, a box's fetcher answers.

For each box one hash with orders, which the server alone writes, and one with states, which the box alone writes.
What a place (a download cache, or a box) has is kept for a while, so that it is not looked for each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import redis
from pydantic import BaseModel, ConfigDict, ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.fetch_items import FetchItem
from mlflow_lmms.queue_keys import fetch_orders_key, fetch_states_key, fetched_key, fetcher_key

#: Orders that no server has written again for so long are void: their jobs are gone, or nobody waits for them.
_ORDERS_STAND_S = 600
#: For so long nobody looks again whether files are still where they were put.
FETCHED_FOR_S = 3600
#: A fetcher that has said nothing for so long is taken for dead.
ALIVE_FOR_S = 15


T = TypeVar("T", bound=BaseModel)


class FetchOrder(BaseModel):
    """An item to fetch, and for which queued jobs; `at` is when it was ordered, by the clock of Redis."""

    model_config = ConfigDict(frozen=True)

    item: FetchItem
    jobs: tuple[str, ...]
    at: float


class FetchState(BaseModel):
    """How far a box is with an order, in bytes; `total` is unknown at first."""

    model_config = ConfigDict(frozen=True)

    state: Literal["fetching", "waiting", "failed"]
    done: int = 0
    total: int | None = None
    message: str = ""


@dataclass(frozen=True)
class Fetches:
    """All of it at one time (`now`, by the clock of Redis): by box, and by place."""

    now: float = 0.0
    alive: frozenset[str] = frozenset()
    orders: Mapping[str, Mapping[str, FetchOrder]] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, FetchState]] = field(default_factory=dict)
    fetched: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class _Connected:
    """A connection whose errors are ours."""

    def __init__(self, redis_url: str, *, timeout_s: float = 2.0) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise UnavailableError(f"the queue server does not answer: {error}") from None

    def close(self) -> None:
        """Let the connection go."""
        self._redis.close()


class FetchOrders(_Connected):
    """The server's side."""

    def read(self, caches: Mapping[str, str]) -> Fetches:
        """How things stand for these boxes (name → download cache).

        Raises:
            UnavailableError: the queue server does not answer.
        """
        boxes = sorted(caches)
        places = sorted({place for box in boxes for place in (caches[box], f"box:{box}") if place})
        with self._answering():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.time()
            for box in boxes:
                pipeline.exists(fetcher_key(box))
                pipeline.hgetall(fetch_orders_key(box))
                pipeline.hgetall(fetch_states_key(box))
            for place in places:
                pipeline.hgetall(fetched_key(place))
            answers: list[Any] = pipeline.execute()
        now = float(answers[0][0]) + float(answers[0][1]) / 1e6
        by_box = dict(zip(boxes, zip(*[iter(answers[1 : 1 + 3 * len(boxes)])] * 3, strict=True), strict=True))
        return Fetches(
            now=now,
            alive=frozenset(box for box, (alive, _, _) in by_box.items() if alive),
            orders={box: _parsed(FetchOrder, orders) for box, (_, orders, _) in by_box.items()},
            states={box: _parsed(FetchState, states) for box, (_, _, states) in by_box.items()},
            fetched={
                place: {key: float(at) for key, at in entries.items() if float(at) > now - FETCHED_FOR_S}
                for place, entries in zip(places, answers[1 + 3 * len(boxes) :], strict=True)
            },
        )

    def write(self, box: str, orders: Mapping[str, FetchOrder]) -> None:
        """Let these be all the orders of a box; what it fetches beyond them, it stops.

        Raises:
            UnavailableError: the queue server does not answer.
        """
        with self._answering():
            pipeline = self._redis.pipeline()
            pipeline.delete(fetch_orders_key(box))
            if orders:
                fields: dict[Any, Any] = {key: order.model_dump_json() for key, order in orders.items()}
                pipeline.hset(fetch_orders_key(box), mapping=fields)
                pipeline.expire(fetch_orders_key(box), _ORDERS_STAND_S)
            pipeline.execute()

    def clear(self) -> None:
        """Take all orders of all boxes back.

        Raises:
            UnavailableError: the queue server does not answer.
        """
        with self._answering():
            if found := list(self._redis.scan_iter(fetch_orders_key("*"))):
                self._redis.delete(*found)


class BoxFetches(_Connected):
    """The side of one box's fetcher."""

    def __init__(self, redis_url: str, box: str, *, timeout_s: float = 5.0) -> None:
        super().__init__(redis_url, timeout_s=timeout_s)
        self._box = box

    def begin(self) -> None:
        """Forget what an earlier fetcher of the box was doing."""
        with self._answering():
            self._redis.delete(fetch_states_key(self._box))

    def orders(self) -> dict[str, FetchOrder]:
        """The box's orders by item; says that the fetcher is alive.

        Raises:
            UnavailableError: the queue server does not answer.
        """
        with self._answering():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.set(fetcher_key(self._box), 1, ex=ALIVE_FOR_S)
            pipeline.hgetall(fetch_orders_key(self._box))
            return _parsed(FetchOrder, pipeline.execute()[1])

    def report(self, key: str, state: FetchState) -> None:
        """Tell how far an order is."""
        with self._answering():
            self._redis.hset(fetch_states_key(self._box), key, state.model_dump_json())
            self._redis.expire(fetch_states_key(self._box), 24 * 3600)

    def done(self, key: str, place: str) -> None:
        """Tell that a place has an item."""
        with self._answering():
            now: Any = self._redis.time()
            self._redis.hset(fetched_key(place), key, str(now[0]))
            self._redis.expire(fetched_key(place), FETCHED_FOR_S)
            self._redis.hdel(fetch_states_key(self._box), key)

    def forget(self, key: str) -> None:
        """Take back what was told of an order that no longer stands."""
        with self._answering():
            self._redis.hdel(fetch_states_key(self._box), key)

    def end(self) -> None:
        """The fetcher ends."""
        with self._answering():
            self._redis.delete(fetcher_key(self._box), fetch_states_key(self._box))


def _parsed(kind: type[T], entries: Mapping[str, str]) -> dict[str, T]:
    """The entries that can be read; those of another version of us cannot."""
    found = {}
    for key, text in entries.items():
        try:
            found[key] = kind.model_validate_json(text)
        except ValidationError:
            continue
    return found
