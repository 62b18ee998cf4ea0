"""Which jobs wait for their files, and which box fetches them. Values in, values out.

It decides from the planner's view of the fleet and from what the boxes told. A fetch that fails, takes too long, or
that nobody can do, holds no job up: the job then loads its files itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlflow_lmms.fetch_items import FetchItem
from mlflow_lmms.fetch_orders import FETCHED_FOR_S, Fetches, FetchOrder, FetchState
from mlflow_lmms.planner.demand import Demand, demand_of, shape
from mlflow_lmms.planner.fleet import BoxState, Cause, FleetState, Job, Wait
from mlflow_lmms.planner.plan import rooms_of

#: A job whose files are somewhere, and that waits so long for a place there, may go elsewhere.
_SPREAD_AFTER_S = 120.0
#: How many places may fail to fetch before a job loads its files itself.
_MOST_TRIES = 2
_DEFAULT_S = 900.0


@dataclass(frozen=True)
class Held:
    """The fleet as it is to be planned for, who waits for files, and why files of others were not fetched."""

    state: FleetState
    waits: tuple[Wait, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    def told(self, waits: Iterable[Wait]) -> tuple[Wait, ...]:
        """The plan's waits with what is to be said about files, and those that wait for files alone."""
        noted = (
            replace(wait, reason=f"{wait.reason}; {self.notes[wait.job]}") if wait.job in self.notes else wait
            for wait in waits
        )
        return (*noted, *self.waits)


@dataclass(slots=True)
class _Outlook:
    """What jobs of one shape with the same files find.

    Attributes:
        suiting: boxes that are open for it.
        ready: those of them that have all files.
        failed: those that could not fetch a file, and why.
        able: those that can be asked to fetch.
        full: whether no ready box has room any more.
        chosen: the box that fetches.
    """

    demand: Demand
    items: tuple[FetchItem, ...]
    suiting: list[str]
    ready: list[str]
    failed: dict[str, str]
    able: list[str]
    full: bool = False
    chosen: str | None = None


class FetchChoice:
    """One decision about all waiting jobs. Values in, values out."""

    def __init__(
        self,
        state: FleetState,
        caches: Mapping[str, str],
        fetches: Fetches,
        needs: Mapping[str, tuple[FetchItem, ...]],
        limit_s: float,
        now: float,
    ) -> None:
        self._state, self._caches, self._fetches, self._needs = state, caches, fetches, needs
        self._limit_s, self._now = limit_s, now
        self._boxes = {box.name: box for box in state.boxes}
        self._rooms = rooms_of(state, now)
        self._under_way = {
            job: box for box, orders in fetches.orders.items() for order in orders.values() for job in order.jobs
        }
        self._outlooks: dict[Hashable, _Outlook] = {}
        self._waits: list[Wait] = []
        self._notes: dict[str, str] = {}
        self.orders: dict[str, dict[str, FetchOrder]] = defaultdict(dict)

    def decide(self) -> Held:
        """Look at every job; afterwards `orders` are all that the boxes are to fetch."""
        leased = {lease.job for lease in self._state.leases}
        jobs = []
        for job in self._state.jobs:
            items = self._needs.get(job.id)
            kept = self._consider(job, items) if items and job.id not in leased else job
            if kept is not None:
                jobs.append(kept)
        return Held(replace(self._state, jobs=tuple(jobs)), tuple(self._waits), self._notes)

    def _consider(self, job: Job, items: tuple[FetchItem, ...]) -> Job | None:
        """The job as it is to be planned; None: it waits for its files."""
        outlook = self._outlook(job, items)
        if outlook.ready:
            return self._ready(job, outlook)
        for name in outlook.failed:  # an order stands as long as its failure is to be known
            self._order(name, job, self._missing(name, items))
        if not outlook.able:
            for name, why in list(outlook.failed.items())[:1]:
                self._notes[job.id] = f"its files could not be fetched beforehand on {name}: {why}"
            return job
        box = self._choose(job, outlook)
        since = self._order(box, job, self._missing(box, items))
        if self._fetches.now - since > self._limit_s:
            self._notes[job.id] = f"fetching its files on {box} takes longer than {self._limit_s / 60:.0f} min"
            return job
        self._take_room(box, job, outlook.demand)
        self._waits.append(Wait(job.id, Cause.FETCHING, self._progress(box, items)))
        return None

    def _outlook(self, job: Job, items: tuple[FetchItem, ...]) -> _Outlook:
        key = (shape(job), tuple(item.key for item in items))
        if key not in self._outlooks:
            self._outlooks[key] = self._look(demand_of(job, self._state.boxes), items)
        return self._outlooks[key]

    def _look(self, demand: Demand, items: tuple[FetchItem, ...]) -> _Outlook:
        suiting = [name for name in sorted(demand.boxes) if self._boxes[name].state is BoxState.OPEN]
        ready = [name for name in suiting if not self._missing(name, items)]
        failed = {name: why for name in suiting if (why := self._failure(name, items))}
        tried = {self._place(name) for name in failed}
        able = [name for name in suiting if self._fetches_for(name) and self._place(name) not in tried]
        return _Outlook(demand, items, suiting, ready, failed, able if len(tried) < _MOST_TRIES else [])

    def _ready(self, job: Job, outlook: _Outlook) -> Job:
        """A job whose files are on some boxes: there, and after a while on others, which fetch them first."""
        items, demand = outlook.items, outlook.demand
        self._look_again(job, items, outlook.ready)
        allowed = set(outlook.ready)
        home = job.home if job.home in allowed else None
        # Room only shrinks while jobs are looked at, so what is full stays so.
        outlook.full = outlook.full or not any(
            self._take_room(name, job, demand) for name in filter(None, (home, *outlook.ready))
        )
        since = max([job.queued_at, *(min(self._times(item)) for item in items)])
        if outlook.full and self._now - since > _SPREAD_AFTER_S:
            others = (name for name in outlook.suiting if name not in allowed)
            idle = (name for name in others if self._rooms[name].choose(demand) is not None)
            under_way = self._under_way.get(job.id)
            name = under_way if under_way in outlook.suiting and under_way not in allowed else next(idle, None)
            if name is not None and self._fetches_for(name) and not self._failure(name, items):
                self._order(name, job, self._missing(name, items))
            elif name is not None:
                allowed.add(name)
        return replace(job, boxes=frozenset(allowed), home=home or min(allowed))

    def _look_again(self, job: Job, items: tuple[FetchItem, ...], ready: Sequence[str]) -> None:
        """Have it checked in time that files are still there: a job that waits long must not fall out of the plan."""
        for name in filter(self._fetches_for, ready):
            held = {item.key: self._fetches.fetched[item.place(name, self._caches[name])][item.key] for item in items}
            old = [item for item in items if self._fetches.now - held[item.key] > FETCHED_FOR_S / 2]
            self._order(name, job, old)
            return

    def _times(self, item: FetchItem) -> list[float]:
        return [times[item.key] for times in self._fetches.fetched.values() if item.key in times]

    def _place(self, box: str) -> str:
        return self._caches.get(box) or f"box:{box}"

    def _fetches_for(self, box: str) -> bool:
        return bool(self._caches.get(box)) and box in self._fetches.alive

    def _missing(self, box: str, items: Collection[FetchItem]) -> list[FetchItem]:
        cache, fetched = self._caches.get(box, ""), self._fetches.fetched
        return [item for item in items if item.key not in fetched.get(item.place(box, cache), {})]

    def _state_of(self, box: str, item: FetchItem) -> FetchState | None:
        return self._fetches.states.get(box, {}).get(item.key)

    def _failure(self, box: str, items: Collection[FetchItem]) -> str | None:
        for item in items:
            told = self._state_of(box, item)
            if told is not None and told.state == "failed" and item.key in self._fetches.orders.get(box, {}):
                return told.message
        return None

    def _order(self, box: str, job: Job, items: Collection[FetchItem]) -> float:
        """Order items; returns since when the box has been at it for this job."""
        began = []
        for item in items:
            earlier = self.orders[box].get(item.key) or self._fetches.orders.get(box, {}).get(item.key)
            at = earlier.at if earlier is not None else self._fetches.now
            jobs = self.orders[box][item.key].jobs if item.key in self.orders[box] else ()
            self.orders[box][item.key] = FetchOrder(item=item, jobs=tuple(dict.fromkeys((*jobs, job.id))), at=at)
            began.append(at)
        return min(began, default=self._fetches.now)

    def _choose(self, job: Job, outlook: _Outlook) -> str:
        """The box that is at it already, else the one where least is missing and the job finds its place first."""
        under_way = self._under_way.get(job.id)
        if under_way in outlook.able:
            return under_way
        if outlook.chosen is None:
            outlook.chosen = min(outlook.able, key=lambda name: self._rank(name, outlook))
        return outlook.chosen

    def _rank(self, name: str, outlook: _Outlook) -> tuple[int, float, int, str]:
        ordered = self._fetches.orders.get(name, {}).keys() | self.orders.get(name, {}).keys()
        missing = sum(item.key not in ordered for item in self._missing(name, outlook.items))
        room = self._rooms[name]
        fits = room.choose(outlook.demand) is not None
        at = self._now if fits else (room.earliest(outlook.demand, self._now) or (float("inf"),))[0]
        return missing, at, room.idle_gpus, name

    def _take_room(self, box: str, job: Job, demand: Demand) -> bool:
        """Let the job hold a place there, so that the next one's files go where there is room."""
        room = self._rooms[box]
        gpus = room.choose(demand)
        if gpus is None:
            return False
        seconds = _DEFAULT_S if job.estimated_s is None else job.estimated_s
        room.take(gpus, demand.memory if room.shares(demand) else None, self._now + seconds)
        return True

    def _progress(self, box: str, items: Sequence[FetchItem]) -> str:
        """How far the fetch is, in words."""
        missing = self._missing(box, items)
        told = [(item, state) for item in missing if (state := self._state_of(box, item))]
        sized = [(state.done, state.total) for _, state in told if state.total]
        what = f"its files are fetched on {box}"
        if not told:
            return f"{what}: {_names(missing)}"
        if all(state.state == "waiting" for _, state in told):
            return f"its files are fetched by another box into the cache that {box} shares"
        done, total = sum(done for done, _ in sized), sum(total for _, total in sized)
        if not total:
            return f"{what}: {_names([item for item, _ in told])}"
        return f"{what}: {100 * done // total} %, {_size(done, total)}"


def _names(items: Sequence[FetchItem]) -> str:
    more = len(items) - 1
    return items[0].name + (f" and {more} more" if more else "")


def _size(done: int, total: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if total >= size:
            return f"{done / size:.0f} of {total / size:.0f} {unit}"
    return f"{done} of {total} bytes"
