"""Keeps knowing the GPUs of this box: what they are, that one got lost, that it came back, that the driver is silent.

The driver is asked by a process of its own (`worker.gpu_stream`); nothing here ever waits for it.
"""

from __future__ import annotations

import logging
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from worker.gpu_inventory import INVENTORY_JSON, Gpu, GpuProblem, Inventory, Trouble

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
#: Opening the driver takes long on a box with many GPUs.
_FIRST_ANSWER_S = 90.0
_SILENCE_S = 20.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_LAST_WORD_S = 1.0


class GpuWatch:
    """The newest answer of the driver, kept up to date from a thread."""

    def __init__(
        self, *, every_s: float = _EVERY_S, first_answer_s: float = _FIRST_ANSWER_S, silence_s: float = _SILENCE_S
    ) -> None:
        self._every_s = every_s
        self._first_answer_s = first_answer_s
        self._silence_s = silence_s
        self._latest = Inventory()
        self._known = threading.Event()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_asking, name="gpu watch", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; the asking process ends by itself when it cannot be killed now."""
        self._stopped.set()
        if (process := self._process) is not None:
            process.kill()
        self._thread.join(2.0)

    def first(self) -> Inventory:
        """The first answer; waits for it, or for its time to be up."""
        self._known.wait(self._first_answer_s + 5)
        return self._latest

    def latest(self) -> Inventory:
        """The newest answer; returns at once."""
        return self._latest

    @property
    def pid(self) -> int | None:
        """The asking process, a child of this one."""
        return self._process.pid if self._process is not None else None

    def _keep_asking(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopped.is_set():
            answered = self._ask_until_silent()
            pause_s = _FIRST_PAUSE_S if answered else min(pause_s * 2, _LONGEST_PAUSE_S)
            # One that hangs in the driver cannot be killed; another beside it would hang too.
            while not self._stopped.wait(pause_s) and self._process is not None and self._process.poll() is None:
                pass

    def _ask_until_silent(self) -> bool:
        command = [sys.executable, "-P", "-m", "worker.gpu_stream", str(os.getpid()), str(self._every_s)]
        # From this thread, which lives as long as this process: the child ends with it.
        self._process = process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        answered = False
        for line in self._lines(process):
            try:
                self._learn(INVENTORY_JSON.validate_json(line))
            except ValidationError as error:
                logger.error("the asking process said something else: %s", error)
            answered = True
        ended = process.poll() is not None
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORD_S)
        if not self._stopped.is_set():
            why = "the process that asks the driver ended" if ended else "the driver does not answer"
            self._learn(Inventory(troubles=(Trouble(GpuProblem.NO_ANSWER, why),)))
        return answered

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """Whole lines, until there are none for too long."""
        assert process.stdout is not None
        limit_s, rest = self._first_answer_s, b""
        with process.stdout as stream, selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not self._stopped.is_set() and selector.select(limit_s):
                data = os.read(stream.fileno(), 1 << 16)
                if not data:
                    return
                limit_s = self._silence_s
                *lines, rest = (rest + data).split(b"\n")
                yield from lines

    def _learn(self, inventory: Inventory) -> None:
        before = {trouble.message for trouble in self._latest.troubles}
        self._latest = inventory
        for trouble in inventory.troubles:
            missing = trouble.problem in (GpuProblem.NO_BINDING, GpuProblem.NO_DRIVER) and not self._known.is_set()
            if trouble.message not in before and not missing:
                logger.warning("GPUs: %s", trouble.message)
        self._known.set()


def as_now(chosen: Iterable[Gpu], inventory: Inventory) -> tuple[Gpu, ...]:
    """These GPUs as they are now; one that the driver does not list any more cannot be used, and why."""
    return tuple(inventory.of(gpu.uuid) or _gone(gpu, inventory) for gpu in chosen)


def _gone(gpu: Gpu, inventory: Inventory) -> Gpu:
    of_it = [trouble for trouble in inventory.troubles if trouble.index == gpu.index]
    of_all = [trouble for trouble in inventory.troubles if trouble.index is None]
    problem = next((trouble.problem for trouble in (*of_it, *of_all)), GpuProblem.LOST)
    now = replace(gpu, usable=False, problem=problem, used=None, processes=None)
    return replace(now, utilisation=None, temperature=None, power_w=None)
