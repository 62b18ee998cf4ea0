"""Quotas while a plan is made: who has how many GPUs and GPU-hours, and whether one more job is within them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from mlflow_lmms.planner.fair_share import HOUR_S
from mlflow_lmms.planner.fleet import Job, Lease, Policy, Quota, Quotas, Use

_NO_QUOTA = Quota()


class QuotaCheck:
    """Counts leases and starts per user against the quotas."""

    def __init__(
        self, quotas: Quotas, uses: Mapping[str, Use], leases: Iterable[Lease], now: float, policy: Policy
    ) -> None:
        self._quotas, self._uses, self._policy = quotas, uses, policy
        self._gpus: dict[str, int] = defaultdict(int)
        self._hours: dict[str, float] = defaultdict(float)
        self._held_back: dict[str, str] = {}
        for lease in leases:
            self._gpus[lease.user] += len(lease.gpus)
            seconds = max(lease.estimated_s or policy.default_estimate_s, now - lease.started_at)
            self._hours[lease.user] += len(lease.gpus) * seconds / HOUR_S

    def refusal(self, job: Job, now: float) -> str | None:
        """Why the job is over its user's quota, in words; None when it is not.

        The last GPU-hours may be overdrawn by one job: an estimate larger than the quota must not stop a job forever.
        """
        if job.gpus == 0 or self._quotas.of(job.user) == _NO_QUOTA:
            return None
        if first := self._held_back.get(job.user):
            return f"waits behind {first} of the same user, which has waited long for its quota"
        why = self._gpus_refused(job) or self._hours_refused(job)
        if why and now - job.queued_at > self._policy.drain_s and not self.never(job):
            self._held_back[job.user] = job.id
        return why

    def never(self, job: Job) -> bool:
        """Whether the job alone is over its user's quota of GPUs."""
        most = self._quotas.of(job.user).gpus
        return most is not None and job.gpus > most

    def _gpus_refused(self, job: Job) -> str | None:
        most = self._quotas.of(job.user).gpus
        if most is None or self._gpus[job.user] + job.gpus <= most:
            return None
        if job.gpus > most:
            return f"asks for {job.gpus} GPUs; {job.user} may have {most} at a time"
        return f"needs {job.gpus} GPUs; {job.user} has {self._gpus[job.user]} of {most} at a time"

    def _hours_refused(self, job: Job) -> str | None:
        most = self._quotas.of(job.user).gpu_hours
        if most is None:
            return None
        used, running = self._uses.get(job.user, Use()).gpu_hours, self._hours[job.user]
        if used >= most:
            return f"{job.user} has used {used:.1f} of {most:g} GPU-hours"
        if running and used + running + self.hours(job) > most:
            return f"{job.user} has used or is using {used + running:.1f} of {most:g} GPU-hours"
        return None

    def hours(self, job: Job) -> float:
        """GPU-hours that a job is likely to use."""
        return job.gpus * (job.estimated_s or self._policy.default_estimate_s) / HOUR_S

    def take(self, job: Job) -> None:
        """Count a job that starts, or that GPUs are kept for: its user's other jobs leave them to it."""
        self._gpus[job.user] += job.gpus
        self._hours[job.user] += self.hours(job)
