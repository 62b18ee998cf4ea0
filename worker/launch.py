"""How many processes a part runs in, and what its adapter must be told of its GPUs. Pure.

Owns what is known of lmms-eval's adapters in this: which of them split one model over several GPUs in one process,
which spread requests over GPUs by themselves, and which ask a service. Every other adapter gets one process per GPU,
each with a whole model and its share of the documents. The runner starts those processes itself
(`worker.runner.ranks`), so that the command is the same in each case. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlflow_lmms.adapters import WITHOUT_GPU
from mlflow_lmms.errors import InvalidRequestError

LaunchMode = Literal["auto", "single", "data-parallel"]

#: Adapters that split one model over GPUs, with the arguments whose product is the number of GPUs; the first of them
#: is set where none is given.
_SPLITS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("vllm", "vllm_generate", "longvila", "whisper_vllm"),
        ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    ),
    **dict.fromkeys(("aero_realtime_vllm", "aero_realtime_vllm_chat"), ("tensor_parallel_size",)),
    "sglang": ("tensor_parallel_size", "pp_size"),
    "llava_sglang": ("tp_size",),
    "fastvideo": ("num_gpus", "data_parallel"),
}
#: Adapters that refuse several processes because they load a model onto each GPU that they see.
_SPREADS = frozenset({"async_hf_model", "async_hf", "nanovlm"})
_DEVICE_MAPS = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})


@dataclass(frozen=True)
class Launch:
    """What the runner is started with: the number of processes and the adapter's arguments with ours added."""

    processes: int
    model_args: dict[str, str]


def plan_launch(adapter: str, model_args: Mapping[str, str], gpus: int, launch: LaunchMode = "auto") -> Launch:
    """Decide how a part with so many leased GPUs is run.

    Raises:
        InvalidRequestError: the arguments, the number of GPUs and the way of launching contradict each other.
    """
    why = _one_process_because(adapter, model_args)
    if launch == "data-parallel" and why is not None:
        raise InvalidRequestError(f"launch=data-parallel starts one process per GPU, but {why}; ask for launch=auto")
    arguments = dict(model_args)
    if adapter in _SPLITS and gpus > 0:
        arguments |= _split(adapter, model_args, gpus)
    single = launch == "single" or why is not None or gpus <= 1
    return Launch(1 if single else gpus, arguments)


def _one_process_because(adapter: str, model_args: Mapping[str, str]) -> str | None:
    if adapter in _SPLITS:
        return f"{adapter} splits one model over its GPUs within one process"
    if adapter in _SPREADS:
        return f"{adapter} spreads requests over all GPUs by itself"
    if adapter in WITHOUT_GPU:
        return f"{adapter} computes nothing on a GPU"
    if (device_map := model_args.get("device_map", "")) in _DEVICE_MAPS:
        return f"device_map={device_map} splits one model over the GPUs of one process"
    return None


def _split(adapter: str, model_args: Mapping[str, str], gpus: int) -> dict[str, str]:
    """The argument to add; refuse given ones that use another number of GPUs than the lease has."""
    names = _SPLITS[adapter]
    given = {name: _count(name, model_args[name]) for name in names if name in model_args}
    rest = math.prod(number for name, number in given.items() if name != names[0])
    if names[0] not in given and gpus % rest == 0:
        return {names[0]: str(gpus // rest)} if gpus > 1 else {}
    used = math.prod(given.values())
    if used == gpus:
        return {}
    told = " and ".join(f"{name}={number}" for name, number in given.items())
    raise InvalidRequestError(
        f"{told} of {adapter} uses {used} GPUs, but the evaluation asks for {gpus}: ask for {used}, or leave "
        f"{names[0]} out, which is then set to fit"
    )


def _count(name: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InvalidRequestError(f"expected {name} to be a whole number of at least 1, got {text!r}")
    return number
