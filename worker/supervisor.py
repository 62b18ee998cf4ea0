"""One box's supervisor: starts the slots, starts again those that end, watches the box, and drains on request.

First SIGTERM (or Ctrl-C): no new work, wait for what runs. Second: what runs stops and goes back to its queue.
Third: everything is killed at once.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import redis

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.settings import Settings
from worker.box_duties import TICK_S, BoxDuties
from worker.gpu_inventory import Gpu
from worker.gpu_worker import GIVE_BACK_SIGNAL
from worker.leases import Slot
from worker.slot import slot_input
from worker.spool import tidy

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
_NEVER = float("inf")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HEALTHY_AFTER_S = 60.0
_KEEP_CACHES_S = 7 * 24 * 3600.0
#: What each further request to stop means, and the signal that tells it to a slot.
_STAGES = (
    (signal.SIGTERM, "no new work; what runs is finished (a second time: it is given back)"),
    (GIVE_BACK_SIGNAL, "what runs is given back to the queue (once more: it is killed)"),
    (signal.SIGKILL, "what runs is killed"),
)


@dataclass
class Place:
    """One slot of the box and the process that fills it now."""

    kind: str
    fewest_gpus: int
    gpus: tuple[str, ...]
    slot: Slot | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    start_at: float = 0.0


class BoxSupervisor:
    """Runs the slots of one box until it is told to stop."""

    def __init__(
        self, settings: Settings, gpus: Sequence[Gpu], *, exit_when_idle: bool = False, drain: bool = True
    ) -> None:
        """Prepare; without `drain` the first SIGTERM counts as the second.

        Raises:
            ConfigurationError: the box would have no slot.
        """
        self._settings = settings
        self._exit_when_idle = exit_when_idle
        self._first_stage = 0 if drain else 1
        uuids = tuple(gpu.uuid for gpu in gpus)
        self._places = [Place(f"cpu{n}", 0, ()) for n in range(settings.cpu_slots)]
        self._places += [Place(f"gpu{n}", 1, uuids) for n in range(len(uuids))]
        if not self._places:
            raise ConfigurationError("this box would have no slot: give it --cpu-slots 1 or more, or GPUs")
        self._redis = redis.Redis.from_url(settings.redis_address)
        self._duties = BoxDuties(
            settings, self._redis, cpu_slots=settings.cpu_slots, gpu_slots=len(uuids), gpus=tuple(gpus)
        )
        self._asked = 0
        self._told = 0
        self._tick_at = 0.0

    def run(self) -> None:
        """Work until every slot has ended after a request to stop, or is idle when that is the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        folder = self._settings.data_folder.absolute() / "worker"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tidy(self._settings.data_folder, _KEEP_CACHES_S)
        try:
            while self._working():
                self._tick()
                time.sleep(_LOOK_EVERY_S)
        finally:
            self._end()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1

    @property
    def _stopping(self) -> bool:
        return self._asked > 0

    def _working(self) -> bool:
        if self._told < self._asked:
            self._pass_on()
        for place in self._places:
            self._look_at(place)
        alive = any(place.process is not None for place in self._places)
        ended = self._exit_when_idle and all(place.start_at == _NEVER for place in self._places)
        return alive or not (self._stopping or ended)

    def _pass_on(self) -> None:
        """Tell the slots of a request to stop that has come."""
        self._told = self._asked
        number, meaning = _STAGES[min(self._first_stage + self._asked, len(_STAGES)) - 1]
        logger.warning("asked to stop: %s", meaning)
        for place in self._places:
            if place.process is not None:
                place.process.send_signal(number)
        self._with_queue(self._duties.withdraw)

    def _look_at(self, place: Place) -> None:
        now = time.monotonic()
        if place.process is None:
            if not self._stopping and now >= place.start_at:
                self._start(place)
            return
        code = place.process.poll()
        if code is None:
            return
        self._bury(place)
        if code == 0 and self._exit_when_idle:
            place.start_at = _NEVER
            return
        healthy = now - place.started_at > _HEALTHY_AFTER_S
        place.pause_s = _FIRST_PAUSE_S if healthy else min(place.pause_s * 2, _LONGEST_PAUSE_S)
        place.start_at = now + place.pause_s
        if not self._stopping:
            logger.error("slot %s ended with code %s; again in %.0f s", place.kind, code, place.pause_s)

    def _bury(self, place: Place) -> None:
        place.process = None
        if (slot := place.slot) is not None:
            self._with_queue(lambda: self._duties.bury(slot.name))

    def _start(self, place: Place) -> None:
        # A name of its own each time: RQ keeps the name of one that was killed for a while.
        name = f"{self._settings.box}.{place.kind}.{uuid.uuid4().hex[:6]}"
        place.slot = Slot(self._settings.box, name, place.fewest_gpus > 0)
        place.started_at = time.monotonic()
        place.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.slot"],
            stdin=subprocess.PIPE,
            cwd=self._settings.data_folder.absolute() / "worker",
            start_new_session=True,  # Ctrl-C is for the supervisor
        )
        assert place.process.stdin is not None
        try:
            with place.process.stdin as stdin:
                stdin.write(slot_input(place.slot, self._settings, exit_when_idle=self._exit_when_idle))
        except BrokenPipeError:
            logger.error("slot %s ended while it was starting", place.kind)

    def _tick(self) -> None:
        if time.monotonic() - self._tick_at >= TICK_S:
            self._tick_at = time.monotonic()
            self._with_queue(self._duties.sweep if self._stopping else self._duties.tick)

    def _with_queue(self, action: Callable[[], None]) -> None:
        try:
            action()
        except redis.RedisError as error:
            logger.warning("the queue server does not answer: %s", error)

    def _end(self) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.kill()
                place.process.wait()
                self._bury(place)
        self._with_queue(self._duties.withdraw)
        self._redis.close()
