"""The last look at leased GPUs before something is started on them: are they there, and is nobody else on them?

What becomes of one that is not what it was leased as is decided elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from worker.gpu_inventory import Gpu, GpuProbe, GpuProblem, Inventory, Trouble
from worker.gpu_processes import FOREIGN_LIMIT, foreign_memory, lease_of
from worker.nvml_probe import NvmlProbe

_ANSWER_S = 5.0
#: The memory of a process that has just ended may still be counted.
_APART_S = 2.0


def dirty_gpus(
    gpus: Sequence[str],
    mark: str,
    *,
    memory: int | None = None,
    probe: GpuProbe | None = None,
    answer_s: float = _ANSWER_S,
    apart_s: float = _APART_S,
) -> dict[str, str]:
    """The GPUs that cannot be used for the lease with this mark, and why; two looks have to agree.

    Args:
        memory: what the lease holds of a GPU that others of ours may use too; None: it has the GPUs for itself.
        answer_s: how long the driver may take for one answer; a driver in trouble may take for ever.
    """
    if not gpus:
        return {}
    asked = probe or NvmlProbe()
    first = _look(answer_within(asked, answer_s), gpus, mark, memory)
    if not first:
        return {}
    time.sleep(apart_s)
    second = _look(answer_within(asked, answer_s), gpus, mark, memory)
    return {uuid: reason for uuid, reason in second.items() if uuid in first}


def answer_within(probe: GpuProbe, limit_s: float) -> Inventory:
    """What the probe tells, or that it did not answer in time; its thread is then left behind."""
    answers: list[Inventory] = []
    asking = threading.Thread(target=lambda: answers.append(probe.inventory()), name="gpu check", daemon=True)
    asking.start()
    asking.join(limit_s)
    if answers:
        return answers[0]
    return Inventory(troubles=(Trouble(GpuProblem.NO_ANSWER, f"the driver does not answer within {limit_s:.0f} s"),))


def _look(inventory: Inventory, gpus: Sequence[str], mark: str, memory: int | None) -> dict[str, str]:
    found = {}
    for uuid in gpus:
        gpu = inventory.of(uuid)
        if gpu is None or not gpu.usable:
            why = "; ".join(trouble.message for trouble in inventory.troubles)
            found[uuid] = why or "the driver does not list it any more"
        elif (reason := _too_full(gpu, mark, memory)) is not None:
            found[uuid] = reason
    return found


def _too_full(gpu: Gpu, mark: str, memory: int | None) -> str | None:
    if memory is not None:
        left = gpu.memory - (gpu.used or 0)
        return f"only {left >> 20} MiB of it are free, {memory >> 20} MiB are needed" if left < memory else None
    foreign = foreign_memory(gpu, lambda pid: lease_of(pid) == mark, held=0)
    if foreign <= FOREIGN_LIMIT:
        return None
    others = [str(process.pid) for process in gpu.processes or () if lease_of(process.pid) != mark]
    whose = f"processes {', '.join(others)}" if others else "processes that cannot be seen from here"
    return f"{whose} use {foreign >> 20} MiB of it"
