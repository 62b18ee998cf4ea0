"""The planner against two others, in simulated time: how full the fleet is, and how long jobs wait.

*greedy* starts whatever fits, in the order of arrival; *strict FIFO* starts nothing before the job that came first;
*planner* is `mlflow_lmms.planner.plan`, as the fleet runs it. All three choose box and GPUs with the same code.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.table import Table

from mlflow_lmms.planner.demand import demand_of
from mlflow_lmms.planner.fleet import GIB, Box, BoxState, FleetState, Gpu, Job, Lease, Plan, Reservation, Start
from mlflow_lmms.planner.placement import best_place
from mlflow_lmms.planner.plan import plan, rooms_of

MINUTE = 60.0
HOUR = 3600.0
GPU_MEMORY = 80 * GIB
REPAIR_S = 10 * MINUTE
#: Share of its work that a job does again after its box was lost: it goes on from its last chunk.
REPEATED = 0.05

Scheduler = Callable[[FleetState, float], Plan]


def in_order(state: FleetState, now: float, *, strict: bool) -> Plan:
    """Start jobs in the order of arrival; `strict`: none before one that does not fit."""
    rooms = rooms_of(state, now)
    starts = []
    full = set()
    for job in sorted(state.jobs, key=lambda job: (job.queued_at, job.id)):
        if (job.gpus, job.memory) in full:
            continue
        demand = demand_of(job, state.boxes)
        place = best_place(demand, [room for room in rooms.values() if room.is_open])
        if place is None:
            if strict:
                break
            full.add((job.gpus, job.memory))
            continue
        room, gpus = place
        memory = demand.memory if room.shares(demand) else None
        room.take(gpus, memory, now)
        starts.append(Start(job.id, room.box.name, gpus, memory))
    return Plan(tuple(starts), None, ())


def greedy(state: FleetState, now: float) -> Plan:
    """Whatever fits."""
    return in_order(state, now, strict=False)


def strict_fifo(state: FleetState, now: float) -> Plan:
    """Nobody overtakes."""
    return in_order(state, now, strict=True)


SCHEDULERS: dict[str, Scheduler] = {"greedy": greedy, "strict FIFO": strict_fifo, "planner": plan}


@dataclass(frozen=True)
class Arrival:
    """A job as it comes, with the time that it really takes."""

    job: Job
    seconds: float


def fleet(boxes: int) -> tuple[Box, ...]:
    """Boxes of 8 GPUs of 80 GB that may be shared."""
    return tuple(
        Box(f"box{b}", tuple(Gpu(f"{b}-{g}", "H100", GPU_MEMORY) for g in range(8)), shares_gpus=True)
        for b in range(boxes)
    )


def a_job(random_: random.Random, number: int, at: float) -> Arrival:
    """1, 2, 4 or 8 GPUs, minutes to hours (median 15 min), an estimate between half and twice of it."""
    gpus = random_.choices((1, 2, 4, 8), (55, 20, 15, 10))[0]
    memory = random_.choice((20, 40, 80)) * GIB if gpus == 1 else 80 * GIB
    seconds = 15 * MINUTE * random_.lognormvariate(0, 1)
    estimate = seconds * 2 ** random_.uniform(-1, 1)
    return Arrival(Job(f"{number:04d}", "0", "user", gpus, at, memory, estimated_s=estimate), seconds)


def work_of(arrival: Arrival) -> float:
    """GPU-seconds; a shared GPU counts by its memory."""
    job = arrival.job
    return arrival.seconds * (job.gpus if job.gpus > 1 else (job.memory or GPU_MEMORY) / GPU_MEMORY)


def stream(seed: int, load: float | None, jobs: int = 800, gpus: int = 32) -> list[Arrival]:
    """Jobs at random times whose work is `load` of what the fleet can do until the last comes; None: all at once."""
    random_ = random.Random(seed)
    at, found = 0.0, []
    for number in range(jobs):
        found.append(a_job(random_, number, at))
        at += random_.expovariate(1.0)
    pace = sum(work_of(one) for one in found) / gpus / load / found[-1].job.queued_at if load else 0.0
    return [replace(one, job=replace(one.job, queued_at=one.job.queued_at * pace)) for one in found]


def lower_bound(arrivals: list[Arrival], gpus: int) -> float:
    """No schedule ends earlier: work from each arrival on, and each job by itself."""
    bound, rest = 0.0, 0.0
    for arrival in sorted(arrivals, key=lambda one: -one.job.queued_at):
        rest += work_of(arrival)
        bound = max(bound, arrival.job.queued_at + rest / gpus, arrival.job.queued_at + arrival.seconds)
    return bound


@dataclass
class World:
    """The fleet in simulated time; it checks by its own count that no GPU is given twice."""

    boxes: tuple[Box, ...]
    arrivals: list[Arrival]
    scheduler: Scheduler
    loss_every_s: float | None = None
    seed: int = 0
    now: float = 0.0
    waits: dict[str, float] = field(default_factory=dict)
    slowest_plan_s: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._seconds = {one.job.id: one.seconds for one in self.arrivals}
        self._jobs = {one.job.id: one.job for one in self.arrivals}
        self._waiting: dict[str, Job] = {}
        self._leases: dict[str, Lease] = {}
        self._reservation: Reservation | None = None
        self._down: set[str] = set()
        self._events: list[tuple[float, int, str, str]] = []
        self._held = {gpu.uuid: 0 for box in self.boxes for gpu in box.gpus}
        self._numbers = iter(range(1 << 60))
        for one in self.arrivals:
            self._at(one.job.queued_at, "arrive", one.job.id)
        if self.loss_every_s:
            self._at(self.loss_every_s, "lose", "")

    def _at(self, when: float, kind: str, what: str) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), kind, what))

    def run(self) -> float:
        """Play until all jobs are done; the time at which the last one is."""
        left, ended = len(self.arrivals), 0.0
        while left:
            self.now, _, kind, what = heapq.heappop(self._events)
            left -= self._happen(kind, what)
            ended = self.now
            if not self._events or self._events[0][0] > self.now:
                self._schedule()
        assert not self._leases and not any(self._held.values()), "GPUs are left over"
        return ended

    def _happen(self, kind: str, what: str) -> int:
        """Let one event happen; how many jobs it ended."""
        if kind == "arrive":
            self._waiting[what] = self._jobs[what]
        elif kind == "end":
            job, _, started = what.partition("@")
            lease = self._leases.get(job)
            if lease is not None and str(lease.started_at) == started:  # else its box was lost meanwhile
                self._release(job)
                return 1
        elif kind == "lose":
            self._lose(self._random.choice(self.boxes).name)
            self._at(self.now + (self.loss_every_s or 0), "lose", "")
        else:
            self._down.discard(what)
        return 0

    def _lose(self, box: str) -> None:
        for job, lease in [entry for entry in self._leases.items() if entry[1].box == box]:
            self._release(job)
            self._seconds[job] -= (1 - REPEATED) * (self.now - lease.started_at)
            self._waiting[job] = replace(self._jobs[job], attempts=1)
        self._down.add(box)
        self._at(self.now + REPAIR_S, "repair", box)

    def _release(self, job: str) -> None:
        lease = self._leases.pop(job)
        for gpu in lease.gpus:
            self._held[gpu] -= lease.memory or GPU_MEMORY

    def _schedule(self) -> None:
        if not self._waiting:
            return
        boxes = tuple(replace(b, state=BoxState.OFFLINE) if b.name in self._down else b for b in self.boxes)
        state = FleetState(
            boxes, tuple(self._waiting.values()), tuple(self._leases.values()), reservation=self._reservation
        )
        began = time.process_time()
        made = self.scheduler(state, self.now)
        self.slowest_plan_s = max(self.slowest_plan_s, time.process_time() - began)
        self._reservation = made.reservation
        for start in made.starts:
            self._start(start)

    def _start(self, start: Start) -> None:
        job = self._waiting.pop(start.job)
        assert len(start.gpus) == job.gpus, "a job got other GPUs than it asked for"
        assert start.box not in self._down, "a lost box got work"
        for gpu in start.gpus:
            self._held[gpu] += start.memory or GPU_MEMORY
            assert self._held[gpu] <= GPU_MEMORY, f"GPU {gpu} is given twice"
        self._leases[start.job] = Lease(
            start.job, job.user, start.box, start.gpus, self.now, job.estimated_s, start.memory
        )
        self.waits[start.job] = self.now - job.queued_at
        self._at(self.now + self._seconds[start.job], "end", f"{start.job}@{self.now}")


@dataclass(frozen=True)
class Outcome:
    """One simulation: makespan over its lower bound, waits in minutes by GPUs of the job."""

    over_bound: float
    waits: dict[int, list[float]]
    slowest_plan_ms: float


def simulate(scenario: str, scheduler: str, seed: int) -> Outcome:
    """Play one scenario with one seed."""
    load, loss = SCENARIOS[scenario]
    arrivals = stream(seed, load)
    world = World(fleet(4), arrivals, SCHEDULERS[scheduler], loss, seed)
    ended = world.run()
    waits: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    for one in arrivals:
        waits[one.job.gpus].append(world.waits[one.job.id] / MINUTE)
    return Outcome(ended / lower_bound(arrivals, 32), waits, world.slowest_plan_s * 1000)


SCENARIOS: dict[str, tuple[float | None, float | None]] = {
    "load 0.95": (0.95, None),
    "load 1.05": (1.05, None),
    "batch at once": (None, None),
    "load 0.9, a box lost every hour": (0.9, HOUR),
}


def starvation(scheduler: str, seed: int) -> float:
    """Minutes that an 8-GPU job of the second hour waits, on one box with too much 1-GPU work for a day."""
    random_ = random.Random(seed)
    found, at, number = [], 0.0, 0
    while at < 24 * HOUR:
        seconds = random_.uniform(5, 25) * MINUTE
        estimate = seconds * 2 ** random_.uniform(-1, 1)
        found.append(Arrival(Job(f"{number:05d}", "0", "a", 1, at, GPU_MEMORY, estimated_s=estimate), seconds))
        at += random_.expovariate(1.1 * 8 / (15 * MINUTE))
        number += 1
    big = Arrival(Job("big", "0", "a", 8, HOUR, GPU_MEMORY, estimated_s=20 * MINUTE), 20 * MINUTE)
    world = World(fleet(1), [*found, big], SCHEDULERS[scheduler])
    world.run()
    return world.waits[big.job.id] / MINUTE


def planner_cost_ms(jobs: int = 1000, boxes: int = 25) -> float:
    """Median processor time of one plan with 200 GPUs, nearly full, and 1,000 waiting jobs of 20 users."""
    random_ = random.Random(0)
    full = tuple(
        Lease(f"l{box.name}{gpu.uuid}", f"u{i % 20}", box.name, (gpu.uuid,), -600.0, random_.uniform(600, 3600))
        for box in fleet(boxes)
        for i, gpu in enumerate(box.gpus)
        if random_.random() > 0.05
    )
    waiting = tuple(
        replace(a_job(random_, number, -random_.uniform(0, 9000)).job, user=f"u{number % 20}")
        for number in range(jobs)
    )
    state = FleetState(fleet(boxes), waiting, full)
    times = []
    for _ in range(15):
        began = time.process_time()
        plan(state, 0.0)
        times.append((time.process_time() - began) * 1000)
    return statistics.median(times)


def rows(seeds: int, workers: int) -> Iterator[tuple[str, str, list[Outcome]]]:
    """The outcomes of all seeds per scenario and scheduler."""
    with ProcessPoolExecutor(workers) as pool:
        jobs = {
            (scenario, scheduler): [pool.submit(simulate, scenario, scheduler, seed) for seed in range(seeds)]
            for scenario in SCENARIOS
            for scheduler in SCHEDULERS
        }
        for (scenario, scheduler), futures in jobs.items():
            yield scenario, scheduler, [future.result() for future in futures]


def worst(outcome: Outcome, gpus: int) -> float:
    """Longest wait of a job with so many GPUs."""
    return max(outcome.waits[gpus])


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    report(list(rows(options.seeds, options.workers)), options.seeds)


def report(results: list[tuple[str, str, list[Outcome]]], seeds: int) -> None:
    """Print the tables and, as the last line, the figures as JSON."""
    title = f"4 boxes of 8 GPUs, 800 jobs, {seeds} seeds; waits in minutes"
    columns = ("scenario", "scheduler", "makespan/bound: median (worst)", "mean wait", "mean of 8 GPUs")
    table = Table(*columns, "worst of 8 GPUs: median (worst)", "worst of 1 GPU", title=title)
    worst8: dict[str, list[float]] = {}
    for scenario, scheduler, found in results:
        bounds = [one.over_bound for one in found]
        everyone = [statistics.fmean(wait for waits in one.waits.values() for wait in waits) for one in found]
        eights = [worst(one, 8) for one in found]
        if scenario == "load 0.95":
            worst8[scheduler] = eights
        table.add_row(
            scenario,
            scheduler,
            f"{statistics.median(bounds):.3f} ({max(bounds):.3f})",
            f"{statistics.median(everyone):.0f}",
            f"{statistics.median(statistics.fmean(one.waits[8]) for one in found):.0f}",
            f"{statistics.median(eights):.0f} ({max(eights):.0f})",
            f"{statistics.median(worst(one, 1) for one in found):.0f} ({max(worst(one, 1) for one in found):.0f})",
        )
    console = Console(width=160)
    console.print(table)
    starved = {name: [starvation(name, seed) for seed in range(min(seeds, 5))] for name in SCHEDULERS}
    for name, waits in starved.items():
        print(f"8-GPU job among a day of 1-GPU jobs at load 1.1, {name}: waits {min(waits):.0f}-{max(waits):.0f} min")
    slowest = max(one.slowest_plan_ms for _, name, found in results for one in found if name == "planner")
    print(
        f"processor time of one plan for 1,000 waiting jobs and 200 GPUs: {planner_cost_ms():.1f} ms; "
        f"slowest above: {slowest:.1f} ms"
    )
    ours = next(found for scenario, name, found in results if (scenario, name) == ("load 0.95", "planner"))
    by_worst, by_median = (of(worst8["planner"]) / of(worst8["greedy"]) for of in (max, statistics.median))
    print(
        f"worst 8-GPU wait over greedy's at load 0.95: medians of seeds {by_median:.3f}, worst seeds {by_worst:.3f}"
    )
    figures = {
        "makespan_over_bound_095": round(statistics.median(one.over_bound for one in ours), 3),
        "worst8_over_greedy_095": round(by_median, 3),
        "starvation_wait_min": round(max(starved["planner"]), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
