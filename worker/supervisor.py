"""One box's supervisor: starts the slots, starts again those that end, watches the box, and drains on request.

First SIGTERM (or Ctrl-C): no new work, wait for what runs. Second: what runs stops and goes back to its queue.
Third: everything is killed at once. The end of the box's time asks likewise.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType

import redis

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.settings import Settings
from worker.announcement import Announcement
from worker.box_duties import BoxDuties, BoxOffer
from worker.box_end import give_back_at
from worker.cache_identity import cache_id
from worker.fetcher_process import FetcherProcess
from worker.gpu_inventory import Gpu, Inventory
from worker.gpu_watch import GpuWatch
from worker.gpu_worker import GIVE_BACK_SIGNAL
from worker.lease_keeper import own_connection
from worker.orphans import adopt_orphans, reap_orphans
from worker.places import Place, jobs_at_once
from worker.spool import tidy
from worker.stop_request import WRAP_UP_S

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
#: A queue server that takes longer does not answer.
_ANSWER_S = 2.0
_KEEP_CACHES_S = 7 * 24 * 3600.0
#: A box that is to end when idle does so after so long without work.
IDLE_S = 5.0
#: After it was told to give back, a slot kills what does not stop; one that does not even do that is killed.
_SLOT_S = 30.0


class Stage(IntEnum):
    """How urgently the box is asked to stop."""

    WORK = 0
    DRAIN = 1
    GIVE_BACK = 2
    KILL = 3


#: What each stage means, and the signal that tells it to a slot.
_STAGES = {
    Stage.DRAIN: (signal.SIGTERM, "no new work; what runs is finished (a second time: it is given back)"),
    Stage.GIVE_BACK: (GIVE_BACK_SIGNAL, "what runs is given back to the queue (once more: it is killed)"),
    Stage.KILL: (signal.SIGKILL, "what runs is killed"),
}


@dataclass(frozen=True)
class BoxPlan:
    """How long a box works and how it ends.

    Attributes:
        until: when its machine is taken away, in unix seconds.
        drain_s: how long the first request to stop lets work run on; None: as long as it takes.
        for_a_while: whether nobody will know the box by its name again.
    """

    until: float | None = None
    exit_when_idle: bool = False
    drain_s: float | None = None
    for_a_while: bool = False
    labels: tuple[str, ...] = ()


class BoxSupervisor:
    """Runs the slots of one box until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        gpus: tuple[Gpu, ...],
        watch: GpuWatch,
        plan: BoxPlan,
        more_gpus: Callable[[Inventory], tuple[Gpu, ...]] | None = None,
    ) -> None:
        """Prepare; with `more_gpus`, devices that appear later are taken too.

        Raises:
            ConfigurationError: the box would have no slot.
        """
        self._settings, self._watch, self._plan, self._more_gpus = settings, watch, plan, more_gpus
        self._folder = settings.data_folder.absolute() / "worker"
        self._offer = BoxOffer(cpu_slots=settings.cpu_slots)
        self._places = [Place(f"cpu{n}", with_gpus=False) for n in range(settings.cpu_slots)]
        self._take(gpus)
        if not self._places:
            raise ConfigurationError("this box would have no slot: give it --cpu-slots 1 or more, or GPUs")
        self._give_back_at = give_back_at(plan.until, time.time()) if plan.until is not None else None
        cache = cache_id(os.environ)
        self._fetcher = FetcherProcess(settings, cache)
        self._redis = redis.Redis.from_url(settings.redis_address)
        announcement = Announcement(
            settings,
            own_connection(self._redis, _ANSWER_S),
            labels=plan.labels,
            until=self._give_back_at,
            cache=cache,
            for_a_while=plan.for_a_while,
        )
        self._duties = BoxDuties(settings, self._redis, offer=self._offer, watch=watch, announcement=announcement)
        self._wanted = self._stage = Stage.WORK
        self._next_stage_at: float | None = None

    def run(self) -> None:
        """Work until every slot has ended after a request to stop, or nothing is left to do when that is the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tidy(self._settings.data_folder, _KEEP_CACHES_S)
        adopt_orphans()
        self._duties.start()
        try:
            while self._working():
                time.sleep(_LOOK_EVERY_S)
        finally:
            self._end()

    def _take(self, gpus: tuple[Gpu, ...]) -> None:
        known = {gpu.uuid for gpu in self._offer.gpus}
        for gpu in gpus:
            if gpu.uuid in known:
                continue
            slots = jobs_at_once(gpu, shared=self._settings.share_gpus)
            first = self._offer.gpu_slots
            self._places += [Place(f"gpu{n}", with_gpus=True) for n in range(first, first + slots)]
            self._offer.gpu_slots += slots
            self._offer.gpus += (gpu,)

    # Asked to stop

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = Stage.GIVE_BACK if self._plan.drain_s == 0 else Stage.DRAIN
        self._wanted = Stage(min(max(self._wanted + 1, first), Stage.KILL))

    def _ask(self, stage: Stage, why: str) -> None:
        if self._wanted < stage:
            logger.warning(why)
            self._wanted = stage

    def _look_at_the_clock(self) -> None:
        if self._give_back_at is not None and time.time() >= self._give_back_at:
            self._ask(Stage.GIVE_BACK, "the time of this box is over")
        if self._plan.exit_when_idle and self._duties.idle_for() >= IDLE_S:
            self._ask(Stage.DRAIN, "nothing is left to do here")
        if self._next_stage_at is not None and time.monotonic() >= self._next_stage_at:
            self._ask(Stage(min(self._stage + 1, Stage.KILL)), "what runs has not ended in time")

    def _pass_on(self) -> None:
        """Tell the slots of a request to stop that has come."""
        self._stage = self._wanted
        number, meaning = _STAGES[self._stage]
        logger.warning("asked to stop: %s", meaning)
        self._offer.draining = True
        self._fetcher.stop()
        for place in self._places:
            place.send(number)
        limit_s = {
            Stage.DRAIN: self._plan.drain_s,
            Stage.GIVE_BACK: self._settings.stop_grace_s + WRAP_UP_S + _SLOT_S,
        }.get(self._stage)
        self._next_stage_at = time.monotonic() + limit_s if limit_s is not None else None

    # Working

    def _working(self) -> bool:
        self._look_at_the_clock()
        if self._stage < self._wanted:
            self._pass_on()
        stopping = self._stage > Stage.WORK
        if not stopping:
            if self._more_gpus is not None:
                self._take(self._more_gpus(self._watch.latest()))
            if self._offer.gpus:
                self._fetcher.tend()
        for place in self._places:
            self._look_at(place, stopping=stopping)
        living = [place for place in self._places if place.process is not None]
        self._offer.slots = tuple(place.slot.name for place in living if place.slot is not None)
        children = [place.process.pid for place in living if place.process is not None]
        reap_orphans({*children, *(pid for pid in (self._watch.pid, self._fetcher.pid) if pid is not None)})
        return bool(living) or not stopping

    def _look_at(self, place: Place, *, stopping: bool) -> None:
        if (ended := place.ended()) is not None:
            name, code = ended
            self._duties.bury_soon(name)
            if not stopping:
                logger.error("slot %s ended with code %s; again in %.0f s", place.kind, code, place.pause_s)
        if not stopping and place.due:
            place.start(self._settings, self._folder)

    def _end(self) -> None:
        for place in self._places:
            place.send(signal.SIGKILL)
            if place.process is not None:
                place.process.wait()
                self._look_at(place, stopping=True)
        self._fetcher.stop()
        self._duties.stop()
        try:
            self._duties.withdraw()
        except redis.RedisError as error:
            logger.warning("the queue server does not answer: %s", error)
        self._watch.stop()
        self._redis.close()
