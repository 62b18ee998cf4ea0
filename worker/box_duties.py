"""What somebody has to do for a box as a whole: announce it, and sweep leases whose holder is gone.

Done by the supervisor; a slot that ``rq worker`` started does it for itself. Announcing and sweeping have a thread
each: killing what cannot be killed takes long, and the box must not seem gone meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from mlflow_lmms.evaluation_queue import Lease
from mlflow_lmms.queue_keys import BOX_STATE_KEY, fetch_orders_key
from mlflow_lmms.settings import Settings
from worker.announcement import Announcement
from worker.gpu_inventory import Gpu
from worker.gpu_watch import GpuWatch, as_now
from worker.lease_keeper import own_connection
from worker.leases import LeaseBook, mark
from worker.process_tree import kill_all

logger = logging.getLogger(__name__)

TICK_S = 1.0
_LAST_TICK_S = 3.0


@dataclass
class BoxOffer:
    """What the box offers now; changed by whoever runs the slots."""

    cpu_slots: int = 0
    gpu_slots: int = 0
    gpus: tuple[Gpu, ...] = ()
    #: RQ's names of the slots that are alive.
    slots: tuple[str, ...] = ()
    draining: bool = False


class BoxDuties:
    """Announces one box and sweeps leases, a tick at a time or in threads."""

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis,
        *,
        offer: BoxOffer | None = None,
        watch: GpuWatch | None = None,
        announcement: Announcement | None = None,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; `refresh` brings the offer up to date before it is announced."""
        self._settings = settings
        self._redis = own_connection(connection, 2.0)
        self._book = LeaseBook(self._redis, settings.lease_ttl_s)
        self.offer = offer or BoxOffer()
        self._watch = watch
        self._announcement = announcement or Announcement(settings, self._redis)
        self._refresh = refresh
        self._seen: dict[str, float] = {}
        self._ended: list[str] = []
        self._idle_since: float | None = None
        self._word: str | None = None
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, args=(self.announce, None), name="announce", daemon=True),
            threading.Thread(target=self._keep, args=(self.tidy, self._wake), name="sweep", daemon=True),
        ]

    # Announcing

    def announce(self) -> None:
        """Tell the fleet that the box is there.

        Raises:
            redis.RedisError: the queue server does not answer.
        """
        if self._refresh is not None:
            self._refresh()
        offer = self.offer
        gpus = as_now(offer.gpus, self._watch.latest()) if self._watch is not None else offer.gpus
        self._announcement.tell(
            gpus, self._book.all(), cpu_slots=offer.cpu_slots, gpu_slots=offer.gpu_slots, draining=offer.draining
        )

    def withdraw(self) -> None:
        """Tell the fleet that the box is gone."""
        self._announcement.withdraw()

    # Sweeping

    def tidy(self) -> None:
        """One turn of the sweeper: bury the slots that have ended, sweep, and see how the box stands.

        Raises:
            redis.RedisError: the queue server does not answer; nothing is judged gone then.
        """
        while self._ended:
            self.bury(self._ended[0])
            self._ended.pop(0)
        self.sweep()
        self._look_at_idleness()
        self._look_at_word()

    def sweep(self) -> None:
        """Put the jobs of expired leases back into their queues; this box's processes of them are killed first."""
        leases = self._book.all()
        now = self._book.now()
        for lease in leases:
            if lease.expires_at > now:
                continue
            if lease.box == self._settings.box:
                kill_all(mark(lease.job_id, lease.token))
            if self._book.drop_expired(lease):
                logger.warning("the lease of %s by %s/%s has run out", lease.job_id, lease.box, lease.slot)
        self._kill_strays({mark(item.job_id, item.token) for item in self._own(leases)})

    def _kill_strays(self, held: set[str]) -> None:
        """Kill what still runs under a lease of this box that another box has swept.

        Only after a TTL: a lease that Redis forgot in a restart is written again by its keeper.
        """
        clock = time.monotonic()
        self._seen.update(dict.fromkeys(held, clock))
        for gone in [item for item, last in self._seen.items() if clock - last > self._settings.lease_ttl_s]:
            del self._seen[gone]
            if killed := kill_all(gone):
                logger.warning("%d processes of the lost lease %s were killed", killed, gone)

    def bury(self, slot: str) -> None:
        """The slot's process has ended: kill what it left and give its lease up at once."""
        for lease in self._book.all():
            if lease.slot == slot:
                kill_all(mark(lease.job_id, lease.token))
                self._book.release(lease.job_id, lease.token)
                logger.warning("slot %s ended; job %s waits again", slot, lease.job_id)

    def bury_soon(self, slot: str) -> None:
        """The same, by the sweeper's thread, again and again until the queue server has taken it."""
        self._ended.append(slot)
        self._wake.set()

    def _own(self, leases: list[Lease]) -> list[Lease]:
        return [lease for lease in leases if lease.box == self._settings.box]

    # How the box stands

    def idle_for(self) -> float:
        """Seconds since when no slot of the box has had anything to do, as far as the sweeper knows."""
        return 0.0 if self._idle_since is None else time.monotonic() - self._idle_since

    def _look_at_idleness(self) -> None:
        slots = self.offer.slots
        states: list[Any] = [self._redis.hget(f"rq:worker:{slot}", "state") for slot in slots]
        # Files that are fetched here are those of evaluations that will come here.
        fetches = self._redis.exists(fetch_orders_key(self._settings.box))
        idle = bool(slots) and all(state == b"idle" for state in states) and not self._own(self._book.all())
        if not idle or fetches:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()

    def _look_at_word(self) -> None:
        raw: Any = self._redis.hget(BOX_STATE_KEY, self._settings.box)
        word = raw.decode() if raw is not None else None
        if word != self._word:
            meaning = {
                "paused": "paused: it takes no new work, what runs is finished",
                "drained": "drained: it takes no new work, what runs goes on elsewhere",
            }
            logger.warning("this box is %s", meaning.get(word or "", "open again"))
        self._word = word

    # Threads

    def start(self) -> None:
        """Do both for as long as this process lives, or until `stop`."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Do no more of it; slots that were not buried yet are, if the queue server answers."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_LAST_TICK_S)

    def _keep(self, duty: Callable[[], None], wake: threading.Event | None) -> None:
        while True:
            last = self._stopped.is_set()
            try:
                duty()
            except redis.RedisError as error:
                logger.warning("the queue server does not answer: %s", error)
            if last:
                return
            (wake or self._stopped).wait(TICK_S)
            if wake is not None:
                wake.clear()
