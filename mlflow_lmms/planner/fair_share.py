"""Whose turn it is: priority, waiting time and what each user had lately. Pure; where jobs fit is not known here."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mlflow_lmms.planner.fleet import Job, Lease, Policy, Use

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Worked:
    """A stretch of work that has ended."""

    user: str
    gpus: int
    started_at: float
    ended_at: float


def decayed_use(worked: Iterable[Worked], now: float, half_life_s: float = 24 * HOUR_S) -> dict[str, float]:
    """GPU-hours per user, each counting half as much for every half-life that has passed since its end."""
    uses: dict[str, float] = defaultdict(float)
    for one in worked:
        hours = one.gpus * max(0.0, one.ended_at - one.started_at) / HOUR_S
        uses[one.user] += hours * 0.5 ** (max(0.0, now - one.ended_at) / half_life_s)
    return dict(uses)


class Turns:
    """The waiting jobs in the order of their turn; a job that starts is charged to its user, which may change it.

    A job's level is its priority, plus one for every `ageing_s` of waiting, less up to `fair_share_levels` by its
    user's share of what all users with waiting jobs had lately. So a job comes before every job that is asked for
    more than (priority levels between them + fair_share_levels) x ageing_s later, whoever asks.
    """

    def __init__(
        self, jobs: Mapping[str, Job], leases: Iterable[Lease], uses: Mapping[str, Use], now: float, policy: Policy
    ) -> None:
        self._levels, self._size_levels = policy.fair_share_levels, policy.size_levels
        self._queues: dict[str, list[tuple[float, int, float, str, Job]]] = defaultdict(list)
        for identifier, job in jobs.items():
            level = job.priority + max(0.0, now - job.queued_at) / policy.ageing_s
            self._queues[job.user].append((-level, -job.attempts, job.queued_at, identifier, job))
        for queue in self._queues.values():
            queue.sort()
        self._had = {user: uses.get(user, Use()).recent for user in self._queues}
        for lease in leases:
            if lease.user in self._had:
                self._had[lease.user] += len(lease.gpus) * max(0.0, now - lease.started_at) / HOUR_S
        self._at = dict.fromkeys(self._queues, 0)
        self._heap: list[tuple[float, int, float, str, str]] = []
        self._penalties: dict[str, float] = {}
        self._rank()

    def charge(self, user: str, gpu_hours: float) -> None:
        """Count what a job that starts is likely to use."""
        if gpu_hours > 0:
            self._had[user] += gpu_hours
            self._rank()

    def __iter__(self) -> Iterator[tuple[str, Job]]:
        while self._heap:
            user = heapq.heappop(self._heap)[-1]
            *_, identifier, job = self._queues[user][self._at[user]]
            self._at[user] += 1
            self._push(user)
            yield identifier, job

    def largest_first(self) -> list[tuple[str, Job]]:
        """All jobs, those that find no gap by themselves earlier: each doubling of GPUs counts `size_levels`."""
        ranked = [
            (level + self._penalties[user] - self._size_levels * math.log2(max(job.gpus, 1)), attempts, at, name, job)
            for user, queue in self._queues.items()
            for level, attempts, at, name, job in queue
        ]
        return [(name, job) for _, _, _, name, job in sorted(ranked)]

    def _push(self, user: str) -> None:
        queue, at = self._queues[user], self._at[user]
        if at < len(queue):
            level, attempts, queued_at, identifier, _ = queue[at]
            heapq.heappush(self._heap, (level + self._penalties[user], attempts, queued_at, identifier, user))

    def _rank(self) -> None:
        total = sum(self._had.values()) or 1.0
        self._penalties = {user: self._levels * had / total for user, had in self._had.items()}
        self._heap.clear()
        for user in self._queues:
            self._push(user)
