"""Several processes that evaluate together on one box, one per GPU: started, heard, and ended as one.

Owns what `torchrun` would do, under the same variables: each rank is this very program with its number. A rank that
ends early ends all; the task that was under way fails, named with the rank and what it said last, and the ranks are
started again for the tasks that are left. What a rank does is `evaluation`'s and `world`'s matter.
"""

from __future__ import annotations

import importlib
import os
import selectors
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worker.runner.events import EventWriter
from worker.runner.failures import TaskFailure
from worker.runner.rank_end import RankEnd, kernel_kills
from worker.runner.rank_process import RankProcess
from worker.runner.request import RunRequest

_HOST = "127.0.0.1"
_GRACE_S = 3.0
_LOOK_S = 0.2
_DRAIN_S = 2.0
_WHOLE_REQUEST = ("model_load", "import")
#: Fields that only this module reads.
_OWN = {"task-failed": ("phase", "at")}


def leased_devices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that the worker lets this run see."""
    return [device for device in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip()]


def run_ranks(document: Mapping[str, Any], request: RunRequest, events: EventWriter) -> bool:
    """Evaluate with several processes; tell whether every task has its result."""
    leased = leased_devices(os.environ)
    if leased and len(leased) != request.processes:
        raise TaskFailure(
            "bad_request",
            f"expected one process per GPU: the request asks for {request.processes} processes, the lease has "
            f"{len(leased)} GPUs; ask for as many GPUs as processes, or for launch=single",
        )
    events.log("INFO", f"{request.processes} processes evaluate together, each a share of the documents")
    ranks = _Ranks(request.processes, events, list(request.tasks))
    while ranks.left:
        ranks.run({**document, "tasks": ranks.left})
    return not ranks.failed


class _Ranks:
    """The ranks of one start after the other, until every task has a result or a failure."""

    def __init__(self, size: int, events: EventWriter, tasks: Sequence[str]) -> None:
        self._size = size
        self._events = events
        #: Tasks of which nothing was said yet: as asked for, then as the first rank has resolved them.
        self.left = list(tasks)
        self.failed = False
        self._current: str | None = None
        self._started = False
        self._reports: list[dict[str, Any]] = []
        self._phases: dict[int, str] = {}
        self._done: dict[int, int] = {}
        self._done_before = 0

    def run(self, document: Mapping[str, Any]) -> None:
        """Start the ranks and follow them until all have ended."""
        self._current, self._started, self._reports, self._phases = None, False, [], {}
        self._done_before += sum(self._done.values())
        self._done = {}
        kills = kernel_kills()
        store = _store()
        ranks = [RankProcess(rank, document, self._environment(rank, store.port)) for rank in range(self._size)]
        first = self._follow(ranks)
        del store
        if not self.left:
            return
        reports = [report for report in self._reports if self._current in (None, report["task"])]
        self._fail(RankEnd.of(ranks, first, reports, self._phases, killed=kernel_kills() > kills))

    def _environment(self, rank: int, port: int) -> dict[str, str]:
        size = str(self._size)
        return {
            "OMP_NUM_THREADS": "1",  # as torchrun has it, so that the ranks do not fight for cores
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "ROLE_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "ROLE_WORLD_SIZE": size,
            "MASTER_ADDR": _HOST,
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }

    def _follow(self, ranks: Sequence[RankProcess]) -> list[RankProcess]:
        """Read what the ranks say until all have ended; return those that had ended when the others were stopped."""
        first: list[RankProcess] = []
        kill_at = leave_at = None
        with selectors.DefaultSelector() as selector:
            for rank in ranks:
                rank.register(selector)
            while selector.get_map() or any(rank.alive for rank in ranks):
                for said in _hear(selector):
                    self._take(*said)
                gone = [rank for rank in ranks if not rank.alive]
                if not first and any(rank.process.returncode for rank in gone):
                    first = gone
                    kill_at = time.monotonic() + _GRACE_S
                    _signal(ranks, signal.SIGTERM)
                if kill_at is not None and time.monotonic() > kill_at:
                    _signal(ranks, signal.SIGKILL)
                if len(gone) == len(ranks):  # a stray process may hold a pipe open
                    leave_at = leave_at or time.monotonic() + _DRAIN_S
                    if time.monotonic() > leave_at:
                        break
        return first

    def _take(self, rank: RankProcess, event: dict[str, Any]) -> None:
        kind, task = event["event"], event.get("task")
        if kind == "phase":
            self._phases[rank.number] = event["phase"]
        if kind == "heartbeat":
            self._done[rank.number] = event["done"]
            if rank.number == 0:
                self._events.pass_on({**event, "done": self._done_before + sum(self._done.values())})
        elif kind == "tasks":
            self.left = list(event["names"])
        elif kind == "task-failed" and (rank.number != 0 or task == self._current):
            self._reports.append({**event, "rank": rank.number})
        elif rank.number == 0 or kind == "log":
            self._note(kind, task)
            self._events.pass_on({name: value for name, value in event.items() if name not in _OWN.get(kind, ())})

    def _note(self, kind: str, task: str | None) -> None:
        if kind == "task-started":
            self._current, self._started = task, True
        if kind in ("task-finished", "task-failed") and task in self.left:
            self.left.remove(task)
            self._current = None
            self.failed |= kind == "task-failed"

    def _fail(self, end: RankEnd) -> None:
        """Fail the task that was under way, or all where the model or the start is to blame."""
        self.failed = True
        whole = not self._started or end.phase in _WHOLE_REQUEST
        for task in list(self.left) if whole else [self._current or self.left[0]]:
            self.left.remove(task)
            self._events.task_failed(task, end.failure, end.message, end.traceback)


def _hear(selector: selectors.BaseSelector) -> Iterator[tuple[RankProcess, dict[str, Any]]]:
    for key, _ in selector.select(_LOOK_S):
        rank, stream = key.data
        for event in rank.read(selector, key.fileobj, stream):
            yield rank, event


def _signal(ranks: Sequence[RankProcess], number: signal.Signals) -> None:
    for rank in ranks:
        if rank.alive:
            rank.process.send_signal(number)


def _store() -> Any:
    """Where the ranks meet: served by this process, so that the port is taken before any rank is told of it."""
    distributed = importlib.import_module("torch.distributed")  # takes seconds
    return distributed.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
