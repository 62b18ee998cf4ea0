"""The fleet as the planner sees it: boxes, waiting jobs, leases, quotas, the reservation. Values only, no rule.

Memory is in bytes, time in seconds (points in time on one clock, whichever it is), use in GPU-hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

MIB = 1 << 20
GIB = 1 << 30


class BoxState(StrEnum):
    """Whether a box takes new work; only an open one does."""

    OPEN = "open"
    PAUSED = "paused"
    DRAINED = "drained"
    OFFLINE = "offline"


class Priority(IntEnum):
    """How urgent a job is; a level is worth `Policy.ageing_s` of waiting."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that can be leased: a GPU, or a slice (MIG) of one.

    `memory` is 0 when the driver does not tell it; `free` is what the driver tells now, the queue's own jobs counted
    as used; `foreign` is what processes outside the queue use.
    """

    uuid: str
    type: str
    memory: int
    free: int | None = None
    foreign: int = 0
    is_slice: bool = False
    usable: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """One machine; `gpu_slots` is how many jobs with GPUs may run at a time (none: as many as find a GPU).

    From `ends_at` on it takes no work any more; none: nobody knows of an end.
    """

    name: str
    gpus: tuple[Gpu, ...] = ()
    cpu_slots: int = 0
    gpu_slots: int | None = None
    labels: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()
    state: BoxState = BoxState.OPEN
    shares_gpus: bool = False
    ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One part of a run that waits.

    Attributes:
        memory: what it is likely to need on each GPU; unknown: it takes whole GPUs.
        least_memory: what it needs on each GPU beyond doubt; only this rules a GPU out for good.
        whole_gpus: it takes whole GPUs even where they may be shared (vLLM and SGLang fill what they are given).
        gpu_type: words of the driver's name for the GPU, as ``H100``.
        home: the box that has its caches, better than others where all else is equal.
        boxes: only these boxes have its files; none: any may run it.
    """

    run: str
    part: str
    user: str
    gpus: int
    queued_at: float
    memory: int | None = None
    least_memory: int | None = None
    whole_gpus: bool = False
    priority: Priority = Priority.NORMAL
    attempts: int = 0
    estimated_s: float | None = None
    gpu_type: str | None = None
    labels: frozenset[str] = frozenset()
    box: str | None = None
    environment: str | None = None
    home: str | None = None
    boxes: frozenset[str] | None = None

    @property
    def id(self) -> str:
        """The queue's id of the job."""
        return f"{self.run}-{self.part}"


@dataclass(frozen=True, slots=True)
class Lease:
    """A job at work; `memory` is what it holds of its one GPU, none: all of its GPUs."""

    job: str
    user: str
    box: str
    gpus: tuple[str, ...]
    started_at: float
    estimated_s: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What one user may have: GPUs at a time, and GPU-hours in the period that `Use` counts; none: no limit."""

    gpus: int | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quota of everybody, and of those who have another."""

    default: Quota = Quota()
    users: Mapping[str, Quota] = field(default_factory=dict)

    def of(self, user: str) -> Quota:
        """The quota of a user."""
        return self.users.get(user, self.default)


@dataclass(frozen=True, slots=True)
class Use:
    """What a user's ended jobs used: in the quota's period, and lately (`fair_share.decayed_use`), in GPU-hours."""

    gpu_hours: float = 0.0
    recent: float = 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """GPUs kept for the job whose turn it is.

    Until `drain_at` others may use them if they are likely to be done by `expected_at`; from then on nobody may.
    """

    job: str
    box: str
    gpus: tuple[str, ...]
    since: float
    drain_at: float
    expected_at: float


@dataclass(frozen=True, slots=True)
class FleetState:
    """All that a plan is made from; `reservation` is that of the plan before."""

    boxes: tuple[Box, ...]
    jobs: tuple[Job, ...]
    leases: tuple[Lease, ...] = ()
    quotas: Quotas = Quotas()
    uses: Mapping[str, Use] = field(default_factory=dict)
    reservation: Reservation | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The planner's settings.

    Attributes:
        ageing_s: a job that has waited this long counts one priority level more.
        fair_share_levels: how many levels a user loses who alone used the fleet lately.
        size_levels: how many levels each doubling of GPUs counts when GPUs are to be kept for a job: smaller ones
            find gaps without, and larger ones must not queue up behind them.
        drain_s: how long a reservation lets others fill its GPUs.
        default_estimate_s: how long a job is taken to run when nothing is known.
        foreign_memory: a GPU on which others use more is not given whole.
    """

    ageing_s: float = 4 * 3600
    fair_share_levels: float = 4.0
    size_levels: float = 0.65
    drain_s: float = 20 * 60
    default_estimate_s: float = 15 * 60
    foreign_memory: int = 500 * MIB


class Cause(StrEnum):
    """Why a job waits."""

    NO_BOX = "no_box"
    NEVER_FITS = "never_fits"
    BOXES_CLOSED = "boxes_closed"
    QUOTA = "quota"
    NEXT = "next"
    RESERVED_FOR_OTHER = "reserved_for_other"
    FOREIGN_USE = "foreign_use"
    BUSY = "busy"
    FETCHING = "fetching"


@dataclass(frozen=True, slots=True)
class Start:
    """A job that starts now; `memory` is what it holds of a shared GPU, none: its GPUs are its own."""

    job: str
    box: str
    gpus: tuple[str, ...]
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """A job that waits, and why, in words for its user."""

    job: str
    cause: Cause
    reason: str

    @property
    def never(self) -> bool:
        """Whether no box of the fleet, as it is known, can ever run the job."""
        return self.cause is Cause.NEVER_FITS


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `waits` stand in the order of the queue."""

    starts: tuple[Start, ...]
    reservation: Reservation | None
    waits: tuple[Wait, ...]
