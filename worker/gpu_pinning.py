"""Which GPUs a process sees: the variables that CUDA reads before it starts.

By UUID, which means the same to everybody; by index for libraries that read the variable themselves as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mlflow_lmms.errors import UnavailableError
from worker.gpu_inventory import Inventory
from worker.nvml_probe import NvmlProbe

DeviceFormat = Literal["uuid", "index"]


def visible_devices(
    gpus: Sequence[str], device_format: DeviceFormat = "uuid", inventory: Inventory | None = None
) -> dict[str, str]:
    """The variables for these GPUs; none of them: no GPU is seen at all.

    Slices (MIG) have no index of their own, so where there are some, UUIDs are used whatever is asked for.

    Args:
        inventory: what the driver tells; asked for when the index form needs it.

    Raises:
        UnavailableError: the index of a GPU cannot be told.
    """
    if device_format == "uuid" or not gpus:
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    found = inventory if inventory is not None else NvmlProbe().inventory()
    if any(gpu.is_slice for gpu in found.gpus):
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    # Not NVML's index: CUDA does not count GPUs that this process may not use, nor lost ones.
    order = [gpu.uuid for gpu in sorted(found.gpus, key=lambda gpu: gpu.index)]
    missing = [uuid for uuid in gpus if uuid not in order]
    if missing:
        why = "".join(f"; {trouble.message}" for trouble in found.troubles)
        raise UnavailableError(
            f"the driver does not list {', '.join(missing)} now{why}: the part goes to another GPU; if this stays, "
            "look at `nvidia-smi -L`"
        )
    # CUDA's own order is fastest first.
    indices = ",".join(str(order.index(uuid)) for uuid in gpus)
    return {"CUDA_VISIBLE_DEVICES": indices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
