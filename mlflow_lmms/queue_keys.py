"""Names of all Redis keys of the queue, and what their values look like, both ways.

The server, the boxes and the Lua scripts of `worker` agree here. Values in, values out: no connection is known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_lmms.planner.fleet import Box, BoxState, Gpu, Job, Priority, Reservation, Start

#: RQ queues by priority, in the order in which workers look at them.
QUEUES = ("lmms-high", "lmms-normal", "lmms-low")
#: Sorted set of leased jobs; the score is when the lease runs out, by Redis TIME.
LEASES_KEY = "lmms:leases"
#: Counter of fencing tokens.
FENCE_KEY = "lmms:fence"
#: Set of the runs that are to be cancelled.
CANCEL_KEY = "lmms:cancel"
#: Counter of changes to what queued jobs need: who has read the needs at this count need not read them again.
NEEDS_REVISION_KEY = "lmms:needs-revision"
#: Channel: something changed that may let a job start.
WAKE_CHANNEL = "lmms:wake"
BOXES_PATTERN = "lmms:box:*"
#: Hash box → JSON of what it last announced (`known_json`); kept while the box is away.
KNOWN_BOXES_KEY = "lmms:known-boxes"
#: Hash box → `paused` or `drained`: an admin's word, as the server's tables have it.
BOX_STATE_KEY = "lmms:box-state"
#: Hash job → JSON of its planned start (`start_json`), and when the plan was made, by Redis TIME.
PLAN_STARTS_KEY = "lmms:plan:starts"
PLAN_AT_KEY = "lmms:plan:at"
#: A plan older than this is not followed: the claim then takes what fits, in the order of the queue.
PLAN_FRESH_S = 10.0
#: JSON of the plan's reservation (`reservation_json`); absent: there is none.
RESERVATION_KEY = "lmms:reservation"
#: Hash job → JSON {cause, reason}: why it waits, for people.
WAITS_KEY = "lmms:waits"
#: The queue server's process as the claim last saw it, and the time from which jobs may be claimed.
SERVER_RUN_KEY = "lmms:server-run"
CLAIMS_FROM_KEY = "lmms:claims-from"
#: A GPU that was found used by others just before a start is left alone for so long.
QUARANTINE_S = 60


def job_id(run_id: str, part: str) -> str:
    """The RQ job's id of one part of a run (RQ takes letters, digits, ``_`` and ``-`` only)."""
    return f"{run_id}-{part}"


def split_job_id(identifier: str) -> tuple[str, str]:
    """Run id and part of a job id."""
    run_id, _, part = identifier.partition("-")
    return run_id, part


def lease_key(identifier: str) -> str:
    """Key of the hash that holds a job's lease."""
    return f"lmms:lease:{identifier}"


def need_key(identifier: str) -> str:
    """Key of the hash that tells what a queued job needs (`need_fields`)."""
    return f"lmms:need:{identifier}"


def box_key(box: str) -> str:
    """Key of the hash that a box announces itself with (`BoxReport.fields`)."""
    return f"lmms:box:{box}"


def slots_key(box: str) -> str:
    """Key of the sorted set of a box's slots that nobody supervises; the score is when each was last alive."""
    return f"lmms:slots:{box}"


def quarantine_key(uuid: str) -> str:
    """Key that exists while a GPU is left alone because others were found on it."""
    return f"lmms:quarantine:{uuid}"


def fetch_orders_key(box: str) -> str:
    """Key of the hash item → order of what a box is to fetch beforehand; the server writes it."""
    return f"lmms:fetch:orders:{box}"


def fetch_states_key(box: str) -> str:
    """Key of the hash item → how far the box is with it; its fetcher writes it."""
    return f"lmms:fetch:states:{box}"


def fetcher_key(box: str) -> str:
    """Key that exists while a box's fetcher is alive."""
    return f"lmms:fetch:alive:{box}"


def fetched_key(place: str) -> str:
    """Key of the hash item → when a place (a download cache, or a box) last had it."""
    return f"lmms:fetch:done:{place}"


def need_fields(job: Job) -> dict[str, str]:
    """What a job needs, as the fields of its hash; an empty field means none."""
    plain = {name: getattr(job, name) for name in _NEED_WORDS + _NEED_NUMBERS}
    fields = {name: "" if value is None else str(value) for name, value in plain.items()}
    return fields | {
        "priority": str(int(job.priority)),
        "whole_gpus": str(int(job.whole_gpus)),
        "labels": json.dumps(sorted(job.labels)),
        "boxes": "" if job.boxes is None else json.dumps(sorted(job.boxes)),
    }


_NEED_WORDS = ("run", "part", "user", "gpu_type", "box", "environment", "home")
_NEED_NUMBERS = ("gpus", "queued_at", "memory", "least_memory", "attempts", "estimated_s")


def job_from_need(fields: Mapping[str, str]) -> Job:
    """The job that `need_fields` described.

    Raises:
        ValueError, KeyError: they were not written by `need_fields`.
    """
    given = {name: value for name, value in fields.items() if value != ""}
    return Job(
        run=given["run"],
        part=given["part"],
        user=given.get("user", ""),
        gpus=int(given["gpus"]),
        queued_at=float(given["queued_at"]),
        memory=_integer(given.get("memory")),
        least_memory=_integer(given.get("least_memory")),
        whole_gpus=given.get("whole_gpus") == "1",
        priority=Priority(int(given.get("priority", Priority.NORMAL))),
        attempts=int(given.get("attempts", 0)),
        estimated_s=_number(given.get("estimated_s")),
        gpu_type=given.get("gpu_type"),
        labels=frozenset(json.loads(given.get("labels", "[]"))),
        box=given.get("box"),
        environment=given.get("environment"),
        home=given.get("home"),
        boxes=frozenset(json.loads(given["boxes"])) if "boxes" in given else None,
    )


@dataclass(frozen=True, slots=True)
class GpuReport:
    """A GPU as its box announces it; None: the driver does not tell. Memory in bytes, see `planner.fleet.Gpu`."""

    uuid: str
    name: str
    memory: int = 0
    free: int | None = None
    foreign: int = 0
    is_slice: bool = False
    usable: bool = True
    index: int | None = None
    utilisation: float | None = None
    temperature: float | None = None
    power_w: float | None = None
    problem: str | None = None

    def for_planner(self, *, quarantined: bool = False) -> Gpu:
        """The GPU as the planner sees it."""
        usable = self.usable and not quarantined
        return Gpu(self.uuid, self.name, self.memory, self.free, self.foreign, self.is_slice, usable)


@dataclass(frozen=True, slots=True)
class BoxReport:
    """What a box announces; `state` is the supervisor's own word, `until` when its machine is taken away.

    `cache` tells boxes that share a download cache from those that do not.
    """

    box: str
    cpu_slots: int = 0
    gpu_slots: int = 0
    gpus: tuple[GpuReport, ...] = ()
    labels: frozenset[str] = frozenset()
    shares_gpus: bool = False
    environments: frozenset[str] = frozenset()
    version: str = ""
    protocol: int = 0
    state: str = "open"
    until: float | None = None
    cache: str = ""
    started: float = 0.0

    def fields(self) -> dict[str, str]:
        """The fields of the box's hash."""
        return {
            "box": self.box,
            "cpu_slots": str(self.cpu_slots),
            "gpu_slots": str(self.gpu_slots),
            "gpus": json.dumps([asdict(gpu) for gpu in self.gpus]),
            "labels": json.dumps(sorted(self.labels)),
            "shares_gpus": str(int(self.shares_gpus)),
            "environments": json.dumps(sorted(self.environments)),
            "version": self.version,
            "protocol": str(self.protocol),
            "state": self.state,
            "until": "" if self.until is None else str(self.until),
            "cache": self.cache,
            "started": str(self.started),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> BoxReport:
        """What `fields` wrote; one of another version may have more or fewer."""
        return cls(
            box=fields["box"],
            cpu_slots=int(fields.get("cpu_slots", 0)),
            gpu_slots=int(fields.get("gpu_slots", 0)),
            gpus=tuple(_gpu(entry) for entry in json.loads(fields.get("gpus") or "[]")),
            labels=frozenset(json.loads(fields.get("labels") or "[]")),
            shares_gpus=fields.get("shares_gpus") == "1",
            environments=frozenset(json.loads(fields.get("environments") or "[]")),
            version=fields.get("version", ""),
            protocol=int(fields.get("protocol", 0)),
            state=fields.get("state", "open"),
            until=_number(fields.get("until")),
            cache=fields.get("cache", ""),
            started=float(fields.get("started") or 0.0),
        )

    def for_planner(self, state: BoxState, quarantined: frozenset[str] = frozenset()) -> Box:
        """The box as the planner sees it, in the state that it is in for the whole fleet."""
        return Box(
            name=self.box,
            gpus=tuple(gpu.for_planner(quarantined=gpu.uuid in quarantined) for gpu in self.gpus),
            cpu_slots=self.cpu_slots,
            gpu_slots=self.gpu_slots,
            labels=self.labels,
            environments=self.environments,
            state=state,
            shares_gpus=self.shares_gpus,
            ends_at=self.until,
        )


def known_json(report: BoxReport, seen_at: float) -> str:
    """What is kept of a box when it goes away: all but what changes from second to second."""
    gpus = tuple(
        replace(gpu, free=None, foreign=0, utilisation=None, temperature=None, power_w=None) for gpu in report.gpus
    )
    return json.dumps(replace(report, gpus=gpus).fields() | {"seen_at": str(seen_at)})


def known_from_json(text: str) -> tuple[BoxReport, float]:
    """What `known_json` wrote: the box, and when it was last seen."""
    fields = json.loads(text)
    return BoxReport.from_fields(fields), float(fields["seen_at"])


def start_json(start: Start) -> str:
    """A planned start, as the value of its job."""
    return json.dumps({"box": start.box, "gpus": start.gpus, "memory": start.memory})


def start_from_json(job: str, text: str) -> Start:
    """The start that `start_json` wrote."""
    told = json.loads(text)
    return Start(job, told["box"], tuple(told["gpus"]), told["memory"])


def reservation_json(reservation: Reservation) -> str:
    """GPUs kept for the job whose turn it is."""
    return json.dumps(asdict(reservation))


def reservation_from_json(text: str) -> Reservation:
    """The reservation that `reservation_json` wrote."""
    told = json.loads(text)
    return Reservation(**told | {"gpus": tuple(told["gpus"])})


def _gpu(entry: Mapping[str, Any]) -> GpuReport:
    known = {name: entry[name] for name in GpuReport.__dataclass_fields__ if name in entry}
    for name in ("memory", "foreign"):
        known[name] = known.get(name) or 0
    return GpuReport(**{"name": "", **known})


def _integer(text: str | None) -> int | None:
    return int(text) if text else None


def _number(text: str | None) -> float | None:
    return float(text) if text else None
