"""The slots of a box as processes: each is started, started again with growing pauses when it ends, and signalled."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from mlflow_lmms.settings import Settings
from worker.gpu_inventory import Gpu
from worker.leases import Slot
from worker.slot import slot_input

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HEALTHY_AFTER_S = 60.0
#: Where GPUs are shared: a place for so much memory each, and no more of them on one GPU.
_MEMORY_OF_A_PLACE = 16 << 30
_MOST_ON_A_GPU = 4


def jobs_at_once(gpu: Gpu, *, shared: bool) -> int:
    """How many evaluations a device is to run at a time; a slice, and one of unknown size, never more than one."""
    if not shared or gpu.is_slice:
        return 1
    return max(1, min(_MOST_ON_A_GPU, gpu.memory // _MEMORY_OF_A_PLACE))


@dataclass
class Place:
    """One slot of the box and the process that fills it now."""

    kind: str
    with_gpus: bool
    slot: Slot | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    start_at: float = 0.0

    def start(self, settings: Settings, folder: Path) -> None:
        """Fill it. Call it from the thread whose end is to end the slot."""
        # A name of its own each time: RQ keeps the name of one that was killed for a while.
        name = f"{settings.box}.{self.kind}.{uuid.uuid4().hex[:6]}"
        self.slot = Slot(settings.box, name, self.with_gpus)
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.slot"],
            stdin=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the supervisor
        )
        assert self.process.stdin is not None
        try:
            with self.process.stdin as stdin:
                stdin.write(slot_input(self.slot, settings, exit_when_idle=False))
        except BrokenPipeError:
            logger.error("slot %s ended while it was starting", self.kind)

    @property
    def due(self) -> bool:
        """Whether it is empty and may be filled now."""
        return self.process is None and time.monotonic() >= self.start_at

    def ended(self) -> tuple[str, int] | None:
        """Name and exit code of a slot that has ended since the last look; its place is empty then."""
        if self.process is None or self.slot is None or (code := self.process.poll()) is None:
            return None
        now = time.monotonic()
        healthy = now - self.started_at > _HEALTHY_AFTER_S
        self.pause_s = _FIRST_PAUSE_S if healthy else min(self.pause_s * 2, _LONGEST_PAUSE_S)
        self.start_at = now + self.pause_s
        self.process = None
        return self.slot.name, code

    def send(self, number: signal.Signals) -> None:
        """Tell the slot."""
        if self.process is not None:
            self.process.send_signal(number)
