"""Waiting for a word that something changed which may let a job start. What changed is looked up by who was woken."""

from __future__ import annotations

import time
from typing import Any

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.fleet_orders import PLAN_WORD
from mlflow_lmms.queue_connection import QueueConnection
from mlflow_lmms.queue_keys import WAKE_CHANNEL

_BETWEEN_TRIES_S = 1.0


class Wakes:
    """Listens on the wake channel; used by one thread."""

    def __init__(self, redis_url: str) -> None:
        self._connection = QueueConnection(redis_url)
        server: Any = self._connection.redis  # its pubsub has no types
        self._listener = server.pubsub(ignore_subscribe_messages=True)

    def wait(self, timeout_s: float) -> bool:
        """Return at once when there was a word since the last call, or comes one in time; False: there was none.

        An absent queue server is silence. Plans are no news: it is the scheduler that listens here.
        """
        until = time.monotonic() + timeout_s
        try:
            with self._connection.answering():
                if not self._listener.subscribed:
                    self._listener.subscribe(WAKE_CHANNEL)
                return self._listen(until)
        except UnavailableError:
            self._listener.close()
            time.sleep(min(_BETWEEN_TRIES_S, max(0.0, until - time.monotonic())))
            return False

    def _listen(self, until: float) -> bool:
        heard = False
        while True:
            left = 0.0 if heard else max(0.0, until - time.monotonic())
            message = self._listener.get_message(timeout=left)
            if message is not None:
                heard = heard or message["data"] != PLAN_WORD
            elif heard or time.monotonic() >= until:
                return heard

    def close(self) -> None:
        """Let the connection go."""
        self._listener.close()
