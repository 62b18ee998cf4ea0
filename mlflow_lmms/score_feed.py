"""Decides when the score index looks at which run, so that it follows MLflow whoever writes there.

Three sources: writes through this server are noted at once; a poll finds runs that others have ended; a sweep comes
by every run once in the stated period, and with it everything that nothing else tells of (tags, late metrics,
deletions and `mlflow gc` by programs that write to the database themselves).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection

from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.feed_state import FeedState, Kind, Walk
from mlflow_lmms.run_tables import RunTables
from mlflow_lmms.score_index import ScoreIndex
from mlflow_lmms.settings import Settings

SWEEP, REINDEX, POLL = "sweep", "reindex", "poll"
_DUTY = "score feed"
_LEADERSHIP_S = 10.0
_LEAD_EVERY_S = 2.0
#: Clocks of other machines differ, and a run may be written long after the end that it names.
_OVERLAP_S = 3600.0
#: What a run's own values may cause, unlike `OperationalError`: a database that is not there.
_REFUSED = (StatementError, ValueError, ArithmeticError)
#: Runs that one transaction replaces: on SQLite everybody waits for it.
_TOGETHER = 20
_PAGE = 200
#: The part of its period that a sweep plans to need.
_PACE = 0.8
#: How long one tick goes on with notes and a rebuild before others get the processor.
_STRETCH_S = 0.25


class ScoreFeed:
    """Several server processes may have one; each looks at what it noted, the leader at everything else."""

    def __init__(
        self,
        store: EvaluationStore,
        index: ScoreIndex,
        runs: RunTables,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._index, self._runs, self._settings = store, index, runs, settings
        self._now = clock
        self._state = FeedState(store.engine, clock=clock)
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._leads, self._lead_asked_at = False, float("-inf")
        self._lock = threading.Lock()
        self._noted: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self._woken = threading.Event()
        self._polled: set[tuple[str, int]] = set()
        self._problems: list[str] = []

    def note_run(self, run_id: str) -> None:
        """A run was written to. Costs a lock and a set's entry; the next tick does the rest."""
        self._note(Kind.RUN, run_id)

    def note_experiment(self, experiment_id: str) -> None:
        """An experiment was deleted or restored, and all its runs with it."""
        self._note(Kind.EXPERIMENT, experiment_id)

    def wait(self, seconds: float) -> None:
        """Return when something was noted, at the latest after so long."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """Let `wait` return."""
        self._woken.set()

    def tick(self) -> list[str]:
        """Keep what was noted, and look at what is due.

        Returns:
            One line for each run that could not be indexed.

        Raises:
            UnavailableError: MLflow's database does not answer; nothing noted is lost.
        """
        self._problems = []
        kept = self.keep_notes()
        leads = self._lead()
        until = time.monotonic() + _STRETCH_S
        if kept or leads:
            self._follow_notes(until)
        if leads:
            self._poll()
            self._sweep(until)
            self._rebuild(until)
        return self._problems

    def keep_notes(self) -> bool:
        """Write what was noted to the tables, runs of others left out; whether there was anything."""
        with self._lock:
            noted = {kind: set(targets) for kind, targets in self._noted.items()}
            for targets in self._noted.values():
                targets.clear()
        try:
            runs = self._index.concerned(noted[Kind.RUN])
            self._state.note(runs, noted[Kind.EXPERIMENT])
        except (UnavailableError, DBAPIError):
            with self._lock:
                for kind, targets in noted.items():
                    self._noted[kind].update(targets)
            raise
        return bool(runs or noted[Kind.EXPERIMENT])

    def start_reindex(self) -> Walk:
        """Have the whole index built anew, or go on with the rebuild that is under way."""
        walk = self._state.walk(REINDEX)
        if walk is None or walk.ended_at is not None:
            walk = self._state.start_walk(REINDEX, self._runs.count())
        self.wake()
        return walk

    def walk(self, name: str) -> Walk | None:
        """How far the sweep or the rebuild is."""
        return self._state.walk(name)

    def waiting(self) -> int:
        """How many noted changes are still to be looked at."""
        return self._state.waiting()

    def _note(self, kind: Kind, target: str) -> None:
        with self._lock:
            self._noted[kind].add(target)
        self._woken.set()

    def _lead(self) -> bool:
        if time.monotonic() - self._lead_asked_at >= _LEAD_EVERY_S:
            self._leads = self._store.lead(_DUTY, self._holder, _LEADERSHIP_S)
            self._lead_asked_at = time.monotonic()
        return self._leads

    def _follow_notes(self, until: float) -> None:
        while notes := self._state.notes(Kind.RUN, _PAGE):
            self._follow({note.target for note in notes})
            self._state.settle(notes)
            if time.monotonic() > until:
                self._woken.set()
                return
        for note in self._state.notes(Kind.EXPERIMENT, 1):
            page = self._runs.page(note.after, _PAGE, experiment_id=note.target)
            self._follow(page)
            if len(page) < _PAGE:
                self._state.settle([note])
            else:
                self._state.advance_note(note, page[-1])
            self._woken.set()

    def _poll(self) -> None:
        last = self._state.walk(POLL)
        if last is not None and 0 <= self._now() - last.started_at < self._settings.index_poll_s:
            return
        since = last.started_at if last else self._now()
        found = self._runs.ended_since(since - _OVERLAP_S)
        self._follow(sorted(run_id for run_id, _ in found - self._polled))
        self._polled = found
        self._state.start_walk(POLL, 0)

    def _sweep(self, until: float) -> None:
        period = self._settings.index_sweep_s
        walk = self._state.walk(SWEEP)
        if walk is None:
            self.start_reindex()  # a history that was there before us should not wait for the pace of a sweep
        if walk is None or (walk.ended_at is not None and not 0 <= self._now() - walk.started_at < period):
            walk = self._state.start_walk(SWEEP, self._runs.count())
        while walk and walk.ended_at is None and self._is_behind(walk, period):
            walk = self._step(walk, self._follow)
            if time.monotonic() > until:
                self._woken.set()
                return

    def _is_behind(self, walk: Walk, period: float) -> bool:
        part = (self._now() - walk.started_at) / (period * _PACE)
        return not 0 <= part < 1 or walk.done <= walk.total * part

    def _rebuild(self, until: float) -> None:
        walk = self._state.walk(REINDEX)
        while walk and walk.ended_at is None:
            walk = self._step(walk, self._replace_ours)
            if time.monotonic() > until:
                self._woken.set()
                return

    def _step(self, walk: Walk, look_at: Callable[[Collection[str]], None]) -> Walk | None:
        """Look at one page of runs, and at those that the index knows in that stretch and MLflow no longer has."""
        page = self._runs.page(walk.after, _PAGE)
        ended = len(page) < _PAGE
        look_at(page)
        self._replace(sorted(set(self._index.known_between(walk.after, None if ended else page[-1])) - {*page}))
        self._state.advance_walk(walk, after=page[-1] if page else walk.after, seen=len(page), ended=ended)
        return self._state.walk(walk.name)

    def _follow(self, run_ids: Collection[str]) -> None:
        listed = list(run_ids)
        for start in range(0, len(listed), _PAGE):
            self._replace(self._index.outdated(listed[start : start + _PAGE]))

    def _replace_ours(self, run_ids: Collection[str]) -> None:
        self._replace(sorted(self._index.concerned(run_ids)), anew=True)

    def _replace(self, run_ids: list[str], *, anew: bool = False) -> None:
        for start in range(0, len(run_ids), _TOGETHER):
            some = run_ids[start : start + _TOGETHER]
            try:
                self._index.refresh_runs(some, anew=anew)
            except OperationalError:
                raise
            except _REFUSED:
                self._replace_singly(some)

    def _replace_singly(self, run_ids: list[str]) -> None:
        """One run whose values the database refuses must not keep the others out."""
        for run_id in run_ids:
            try:
                self._index.refresh_run(run_id)
            except OperationalError:
                raise
            except _REFUSED as error:
                self._problems.append(f"run {run_id} cannot be indexed: {type(error).__name__}: {error}")
