"""What is left of a box while a plan is made: free GPUs and slots, who holds what, and when it is likely given back.

A job gets all that it asks for or nothing. Whose turn it is, is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from mlflow_lmms.planner.demand import Demand
from mlflow_lmms.planner.fleet import Box, BoxState, Gpu, Lease, Policy

#: A job that has run longer than estimated is taken to need this share of its time so far once more.
_OVERRUN = 0.25


@dataclass(slots=True)
class _Holder:
    memory: int | None
    until: float


@dataclass(slots=True)
class _Device:
    gpu: Gpu
    place: int
    clean: bool
    holders: list[_Holder] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return not self.holders

    def left(self) -> int:
        """Memory that a further job could have; nothing beside a job that holds the whole GPU."""
        if any(holder.memory is None for holder in self.holders):
            return 0
        left = self.gpu.memory - self.gpu.foreign - sum(holder.memory or 0 for holder in self.holders)
        return left if self.gpu.free is None else min(left, self.gpu.free)

    def free_at(self, demand: Demand, shared: bool, now: float) -> float | None:
        """When a job is likely to find its place; None: that cannot be told (others use the GPU)."""
        if not shared:
            return max((holder.until for holder in self.holders), default=now) if self.clean else None
        left = self.gpu.memory - self.gpu.foreign
        room = left - sum(left if holder.memory is None else holder.memory for holder in self.holders)
        if room >= demand.memory:
            return now
        for holder in sorted(self.holders, key=lambda holder: holder.until):
            room += left if holder.memory is None else holder.memory
            if room >= demand.memory:
                return holder.until
        return None


class Room:
    """One box; `take` is the only way to change it."""

    def __init__(self, box: Box, leases: Iterable[Lease], now: float, policy: Policy) -> None:
        self.box = box
        self._devices = {
            gpu.uuid: _Device(gpu, place, gpu.foreign <= policy.foreign_memory) for place, gpu in enumerate(box.gpus)
        }
        self._cpu_left = box.cpu_slots
        self._gpu_jobs_left = box.gpu_slots if box.gpu_slots is not None else 1 << 30
        self._slot_ends: list[float] = []
        for lease in leases:
            self.take(lease.gpus, lease.memory, expected_end(lease, now, policy))
        self._idle = sum(device.idle for device in self._devices.values())

    @property
    def is_open(self) -> bool:
        """Whether the box takes new work."""
        return self.box.state is BoxState.OPEN

    def lasts_until(self, at: float) -> bool:
        """Whether the box is still there at that time, as far as is known."""
        return self.box.ends_at is None or at <= self.box.ends_at

    @property
    def idle_gpus(self) -> int:
        """GPUs that no job of the queue holds."""
        return self._idle

    @property
    def cpu_slots_left(self) -> int:
        """Free slots for work without GPU."""
        return self._cpu_left

    def shares(self, demand: Demand) -> bool:
        """Whether the job would hold only its memory of a GPU here."""
        return demand.may_share and self.box.shares_gpus

    def choose(
        self, demand: Demand, kept: Collection[str] = (), *, keep_slot: bool = False
    ) -> tuple[str, ...] | None:
        """The GPUs that a job would get now, without those (and one slot) that are `kept`; None: it does not fit."""
        if demand.gpus == 0:
            return () if self._cpu_left > 0 else None
        if self._gpu_jobs_left <= bool(kept):
            return None
        if self.shares(demand):
            return self._choose_shared(demand, kept)
        return self._choose_whole(demand, kept) if self._idle >= demand.gpus else None

    def _choose_shared(self, demand: Demand, kept: Collection[str]) -> tuple[str, ...] | None:
        found = [
            (left, device.place, device.gpu.uuid)
            for device in self._devices.values()
            if (left := device.left()) >= demand.memory and device.gpu.uuid not in kept and demand.takes(device.gpu)
        ]
        return (min(found)[2],) if found else None

    def _choose_whole(self, demand: Demand, kept: Collection[str]) -> tuple[str, ...] | None:
        found = [
            device.gpu
            for device in self._devices.values()
            if device.idle and device.clean and device.gpu.uuid not in kept and demand.takes(device.gpu)
        ]
        if len(found) < demand.gpus:
            return None
        kinds: dict[tuple[int, str], list[str]] = {}
        for gpu in found:
            kinds.setdefault((gpu.memory, gpu.type), []).append(gpu.uuid)
        alike = [kind for kind, uuids in kinds.items() if len(uuids) >= demand.gpus]
        chosen = kinds[min(alike)] if alike else [uuid for kind in sorted(kinds) for uuid in kinds[kind]]
        return tuple(chosen[: demand.gpus])

    def has_room(self, gpus: Collection[str], memory: int | None) -> bool:
        """Whether just these GPUs can be given to a job, whole or as much `memory` of each; no GPU: a slot."""
        if not gpus:
            return self._cpu_left > 0
        devices = [self._devices.get(uuid) for uuid in gpus]
        if self._gpu_jobs_left <= 0 or (memory is not None and not self.box.shares_gpus):
            return False
        return all(
            device is not None
            and device.gpu.usable
            and (device.idle and device.clean if memory is None else device.left() >= memory)
            for device in devices
        )

    def memory_left(self, uuid: str) -> int:
        """Memory of a shared GPU that a further job could have."""
        return self._devices[uuid].left()

    def take(self, gpus: Collection[str], memory: int | None, until: float) -> None:
        """Let a job hold GPUs (those that the box no longer has are left out), or a slot without GPU."""
        if not gpus:
            self._cpu_left -= 1
            return
        self._gpu_jobs_left -= 1
        self._slot_ends.append(until)
        for uuid in gpus:
            if device := self._devices.get(uuid):
                device.holders.append(_Holder(memory, until))
        self._idle = sum(device.idle for device in self._devices.values())

    def earliest(self, demand: Demand, now: float) -> tuple[float, tuple[str, ...]] | None:
        """When, and on which GPUs, a job is likely to find its place here; None: that cannot be told."""
        times = sorted(
            (at, device.place, device.gpu.uuid)
            for device in self._devices.values()
            if demand.takes(device.gpu) and (at := device.free_at(demand, self.shares(demand), now)) is not None
        )[: demand.gpus]
        if len(times) < demand.gpus:
            return None
        return max(self._slot_at(now), times[-1][0]), tuple(uuid for _, _, uuid in times)

    def foreign_gpus(self, demand: Demand) -> int:
        """Idle GPUs that suit a job but for processes outside the queue."""
        return sum(device.idle and not device.clean and demand.takes(device.gpu) for device in self._devices.values())

    def can_keep(self, gpus: Collection[str], demand: Demand) -> bool:
        """Whether GPUs that are kept for a job are all here and can still become the job's."""
        devices = [self._devices.get(uuid) for uuid in gpus]
        shared = self.shares(demand)
        return len(devices) == demand.gpus and all(
            device and (device.clean or shared) and demand.takes(device.gpu) for device in devices
        )

    def available_at(self, gpus: Collection[str], demand: Demand, now: float) -> float:
        """When GPUs that are kept for a job are likely to be free for it."""
        devices = (self._devices[uuid] for uuid in gpus if uuid in self._devices)
        times = [device.free_at(demand, self.shares(demand), now) for device in devices]
        return max([self._slot_at(now), *(at for at in times if at is not None)])

    def _slot_at(self, now: float) -> float:
        """When a job with GPUs is likely to find a slot."""
        return now if self._gpu_jobs_left > 0 else min(self._slot_ends, default=now)


def expected_end(lease: Lease, now: float, policy: Policy) -> float:
    """When a lease is likely to end."""
    estimate = lease.estimated_s if lease.estimated_s is not None else policy.default_estimate_s
    return max(lease.started_at + estimate, now + _OVERRUN * (now - lease.started_at))
