"""Tells when an evaluation hangs: no progress, a phase or the whole part over its time, or a stopped process.

It goes by what the runner says and by the kernel's word on its processes. What is done then is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.process_tree import processes_of

#: Limit of every phase that has none of its own.
OTHER = "other"
#: The kernel is asked for stopped processes this often; one that stays stopped for so long was not meant to go on.
LOOK_EVERY_S = 5.0
STOPPED_S = 60.0
_STOPPED = frozenset("Tt")
#: Events that are progress in themselves, whatever they say.
_STEPS = frozenset({"phase", "task-started", "task-finished", "task-failed", "score", "ask"})


@dataclass(frozen=True)
class Hang:
    """Why the runner is to be stopped; `whole_part`: its time is up, and not only that of what it does now."""

    message: str
    whole_part: bool = False


class Watchdog:
    """Watches one run of the runner. Times are of one monotonic clock."""

    def __init__(
        self,
        *,
        now: float,
        deadline_s: float,
        no_progress_s: Mapping[str, float],
        phase_deadlines_s: Mapping[str, float],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin to watch; limits are by phase, and `is_stopped` tells whether the runner's processes are."""
        self._deadline_s = deadline_s
        self._no_progress_s = no_progress_s
        self._phase_deadlines_s = phase_deadlines_s
        self._is_stopped = is_stopped
        self._began_at = self._phase_since = self._progress_at = self._looked_at = now
        self._stopped_since: float | None = None
        self._phase: tuple[str | None, str] = (None, "start")
        self._done: dict[tuple[Any, Any], Any] = {}

    def take(self, event: Mapping[str, Any], now: float) -> None:
        """Learn from one event of the runner."""
        kind = event.get("event")
        if kind == "phase":
            self._enter((event.get("task"), str(event.get("phase"))), now)
        if kind in _STEPS or (kind in ("progress", "heartbeat") and self._counts(str(kind), event)):
            self._progress_at = now

    def _enter(self, phase: tuple[str | None, str], now: float) -> None:
        if phase != self._phase:
            self._phase, self._phase_since = phase, now

    def _counts(self, kind: str, event: Mapping[str, Any]) -> bool:
        """Whether the count in it has moved; each rank has its own."""
        where, done = (kind, event.get("rank")), event.get("done")
        moved = done is None or self._done.get(where) != done
        self._done[where] = done
        return moved

    def waits(self, now: float) -> None:
        """The runner waits for us, which is no lack of progress."""
        self._progress_at = now

    def hang(self, now: float) -> Hang | None:
        """What is wrong by now."""
        if now - self._began_at > self._deadline_s:
            why = f"the part ran longer than {self._deadline_s:.0f} s (MLFLOW_LMMS_DEADLINE_S) and was stopped"
            return Hang(why, whole_part=True)
        task, phase = self._phase
        where = f"in phase {phase}" + (f" of {task}" if task else "")
        limit = self._phase_deadlines_s.get(phase)
        if limit is not None and now - self._phase_since > limit:
            return Hang(f"{where} longer than {limit:.0f} s (MLFLOW_LMMS_PHASE_DEADLINES_S), and stopped")
        quiet = self._no_progress_s.get(phase, self._no_progress_s.get(OTHER))
        if quiet is not None and now - self._progress_at > quiet:
            return Hang(f"no progress {where} for {quiet:.0f} s (MLFLOW_LMMS_NO_PROGRESS_S): hung, and stopped")
        return self._stopped(now, where)

    def _stopped(self, now: float, where: str) -> Hang | None:
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            stopped = self._is_stopped()
            self._stopped_since = (self._stopped_since or now) if stopped else None
        if self._stopped_since is None or now - self._stopped_since < STOPPED_S:
            return None
        return Hang(f"its process was stopped by a signal (SIGSTOP) {where} and did not go on for {STOPPED_S:.0f} s")


def all_stopped(mark: str, keeper: int) -> bool:
    """Whether the lease has processes beside its keeper and each of them was stopped by a signal."""
    states = [_state(process.pid) for process in processes_of(mark) if process.pid != keeper]
    return bool(states) and all(state in _STOPPED for state in states)


def _state(pid: int) -> str:
    try:
        # The name in parentheses may hold spaces and parentheses itself.
        return (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it ended meanwhile
        return ""
