"""A box's fetcher (``python -P -m worker.fetcher``): carries out the server's orders to fetch files, one by one.

It only decides what to fetch next and tells how far it is; downloading is `fetch_process`'s. What it is comes as one
JSON object on stdin, as a slot's does.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

from mlflow_lmms.errors import InvalidRequestError, UnavailableError
from mlflow_lmms.fetch_items import HUB_TOKEN, FetchItem
from mlflow_lmms.fetch_orders import BoxFetches, FetchOrder, FetchState
from mlflow_lmms.live_events import EventLog
from mlflow_lmms.settings import Settings
from worker.evaluation_environment import resolve_secrets
from worker.fetch_process import FetchEvent, FetchProcess
from worker.fetch_shown import FetchShown
from worker.process_tree import end_with_parent

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_MOST_CRASHES = 3
#: Behind evaluations: they may need the processor and the disk just now.
_NICENESS = 10


class Fetcher:
    """Works off the orders of one box."""

    def __init__(self, settings: Settings, cache: str, environ: Mapping[str, str]) -> None:
        self._settings, self._cache, self._environ = settings, cache, environ
        self._fetches = BoxFetches(settings.redis_address, settings.box)
        self._shown = FetchShown(EventLog(settings.redis_address))
        self._orders: dict[str, FetchOrder] = {}
        self._settled: dict[str, float] = {}
        self._crashes: dict[str, int] = {}
        self._process: FetchProcess | None = None
        self._stopping = False

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End soon; what is half done is taken up later."""
        self._stopping = True

    def run(self) -> None:
        """Work until stopped."""
        begun = False
        try:
            while not self._stopping:
                try:
                    if not begun:
                        self._fetches.begin()
                        begun = True
                    self._step()
                except UnavailableError as error:
                    logger.warning("the fetcher waits for the queue server: %s", error)
                    time.sleep(_LOOK_EVERY_S)
        finally:
            self._end_process()
            with suppress(UnavailableError):
                self._fetches.end()
            self._fetches.close()

    def _step(self) -> None:
        self._orders = self._fetches.orders()
        for key in [key for key in self._settled if key not in self._orders]:
            self._forget(key)
        if self._process is None:
            self._begin()
        if self._process is None:
            time.sleep(_LOOK_EVERY_S)
            return
        for event in self._process.read(_LOOK_EVERY_S):
            self._take(event)
        if self._process.current and self._process.current not in self._orders:
            logger.info("nobody waits any more for %s", self._process.current)
            self._forget(self._process.current)
            self._end_process()
        elif self._process.ended:
            self._see_how_it_ended(self._process)

    def _forget(self, key: str) -> None:
        """Nobody waits for it any more."""
        self._settled.pop(key, None)
        self._crashes.pop(key, None)
        self._shown.forget(key)
        self._fetches.forget(key)

    def _begin(self) -> None:
        """Start a process for the oldest order and those that it can take along."""
        waiting = sorted(self._orders.values(), key=lambda order: order.at)
        pending = [order.item for order in waiting if self._settled.get(order.item.key) != order.at]
        if not pending:
            return
        first = pending[0]
        if first.kind != "artifact" and _hub_is_off(self._environ):
            self._settle(first, None)  # the owner keeps this box offline: what is not here cannot be fetched
            return
        alike = [item for item in pending if _group(item) == _group(first)]
        try:
            secrets = resolve_secrets([HUB_TOKEN] if first.token else [], self._settings, self._environ)
            self._process = FetchProcess(self._settings, self._environ, alike, secrets)
        except InvalidRequestError as error:
            for item in alike:
                self._settle(item, error.message)

    def _take(self, event: FetchEvent) -> None:
        order = self._orders.get(event.item)
        if order is None:
            return
        if event.state in ("done", "failed"):
            self._settle(order.item, event.message if event.state == "failed" else None)
            return
        state = FetchState(
            state="waiting" if event.state == "waiting" else "fetching", done=event.done, total=event.total
        )
        self._fetches.report(event.item, state)
        self._shown.progress(order, event.done, event.total)

    def _settle(self, item: FetchItem, failure: str | None) -> None:
        """The item is here, or cannot be fetched."""
        order = self._orders[item.key]
        self._settled[item.key] = order.at
        if failure is None:
            self._fetches.done(item.key, item.place(self._settings.box, self._cache))
            return
        logger.error("%s cannot be fetched beforehand: %s", item.name, failure)
        self._fetches.report(item.key, FetchState(state="failed", message=failure))
        self._shown.failed(order, self._settings.box, failure)

    def _see_how_it_ended(self, process: FetchProcess) -> None:
        left = [key for key in process.left if key in self._orders]
        self._end_process()
        if not left:
            return
        key = process.current if process.current in left else left[0]
        self._crashes[key] = self._crashes.get(key, 0) + 1
        if self._crashes[key] >= _MOST_CRASHES:
            del self._crashes[key]
            self._settle(self._orders[key].item, f"the fetch ended with code {process.code}: {process.last_line}")
        time.sleep(_LOOK_EVERY_S)

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def _hub_is_off(environ: Mapping[str, str]) -> bool:
    return environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _group(item: FetchItem) -> tuple[bool, str | None, bool]:
    """Items of one group can be fetched by one process."""
    return (item.kind == "artifact", item.environment, item.token)


def main() -> None:
    """Work until told to stop, or until the supervisor is gone."""
    told = json.load(sys.stdin)
    if not end_with_parent(signal.SIGTERM, told["supervisor"]):
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(_NICENESS)
    fetcher = Fetcher(Settings.model_validate(told["settings"]), told["cache"], os.environ)
    signal.signal(signal.SIGTERM, fetcher.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    fetcher.run()


if __name__ == "__main__":
    main()
