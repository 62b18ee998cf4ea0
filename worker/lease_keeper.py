"""Keeps a lease alive while its part runs, and tells the slot to stop when the lease is lost, the run cancelled or
the box drained.

It has a connection of its own with a short time limit: RQ's shared one may hang for minutes. When no renewal has
succeeded for 0.8 of the TTL by this machine's own clock, the part is stopped before anybody else can be given it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.connections import get_connection_kwargs

from worker.leases import Claim, LeaseBook, Renewal

logger = logging.getLogger(__name__)

_FENCE_AT = 0.8
_RENEW_EVERY_S = 1.0


class LeaseKeeper(threading.Thread):
    """Renews one lease until `stop`; calls back at most once each, from its own thread."""

    def __init__(
        self,
        connection: redis.Redis,
        claim: Claim,
        ttl_s: float,
        *,
        since: float,
        on_cancel: Callable[[], None],
        on_give_back: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Prepare; `since` is the monotonic time before the claim was sent, from which its TTL counts."""
        super().__init__(name=f"lease {claim.job_id}", daemon=True)
        self._claim = claim
        self._ttl_s = ttl_s
        self._time_limit_s = min(2.0, ttl_s / 8)
        self._redis = own_connection(connection, self._time_limit_s)
        self._book = LeaseBook(self._redis, ttl_s)
        self._on_stop = {Renewal.CANCEL: on_cancel, Renewal.GIVE_BACK: on_give_back}
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._fence_at = since + _FENCE_AT * ttl_s

    def run(self) -> None:
        """Renew until stopped, lost or fenced."""
        while not self._stopped.wait(min(_RENEW_EVERY_S, self._ttl_s / 10)):
            now = time.monotonic()
            if now + self._time_limit_s > self._fence_at:
                if not self._stopped.wait(max(0.0, self._fence_at - now)):
                    self._on_lost(f"the queue server has not answered for {_FENCE_AT * self._ttl_s:.0f} s")
                return
            answer = self._renewed()
            if answer is Renewal.LOST:
                self._on_lost("somebody else has the part now")
                return
            if answer is not None:
                self._fence_at = now + _FENCE_AT * self._ttl_s
                self._on_stop.pop(answer, _nothing)()

    def _renewed(self) -> Renewal | None:
        try:
            answer, delivering, expires_at = self._book.renew(self._claim)
            self._claim = replace(self._claim, delivering=delivering, expires_at=expires_at)
            return answer
        except redis.RedisError as error:
            logger.warning("the lease of %s could not be renewed: %s", self._claim.job_id, error)
            return None

    def stop(self) -> None:
        """Return when no renewal can happen any more; only then may the lease be released."""
        self._stopped.set()
        if self.is_alive():
            self.join()
        self._redis.close()


def _nothing() -> None:
    """Nobody is to be told, or was told before."""


def own_connection(connection: redis.Redis, time_limit_s: float) -> redis.Redis:
    """Another connection to the same server, that gives up after `time_limit_s` and does not try again."""
    options = get_connection_kwargs(connection)
    options |= {"socket_timeout": time_limit_s, "socket_connect_timeout": time_limit_s}
    options |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": []}
    pool = redis.ConnectionPool(connection_class=connection.connection_pool.connection_class, **options)
    return redis.Redis(connection_pool=pool)
