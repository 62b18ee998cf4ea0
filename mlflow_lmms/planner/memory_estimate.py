"""How much GPU memory a model needs: the best guess, what it needs beyond doubt, and where the figures come from.

Pure. A guess only chooses where a job is tried first; only what is beyond doubt may rule a GPU out, so it counts the
weights alone, in the smallest format that they may be loaded in, and not all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from mlflow_lmms.planner.fleet import GIB

#: Bytes of one stored number, by the names of safetensors, torch and GGUF-less configs, upper case.
_BYTES = {
    "F64": 8, "FLOAT64": 8, "F32": 4, "FLOAT32": 4, "FLOAT": 4, "I32": 4, "INT32": 4, "U32": 4, "I64": 8, "INT64": 8,
    "BF16": 2, "BFLOAT16": 2, "F16": 2, "FLOAT16": 2, "HALF": 2, "I16": 2, "INT16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "FP8": 1, "FLOAT8_E4M3FN": 1, "I8": 1, "INT8": 1, "U8": 1, "UINT8": 1,
    "F4": 0.5, "FP4": 0.5, "NF4": 0.5, "INT4": 0.5,
}  # fmt: skip
#: Without a word on it, weights are taken to be loaded in 16 bits, whatever they are stored in.
_USUAL_BYTES = 2.0
#: Share of the weights that is surely loaded: some adapters leave heads away that others need (speech output).
_SURE_SHARE = 0.8
#: What CUDA and the libraries take before any model, and what each sample of a batch takes beside the weights
#: (cache of keys and values, activations, decoded pictures): of itself and as a share of the weights.
_CONTEXT = 1 * GIB
_PER_SAMPLE = GIB // 2
_PER_SAMPLE_SHARE = 0.05
#: A peak that was observed is not the largest there can be.
_PEAK_MARGIN = 1.1
#: Backends that fill a share of each GPU that they are given, whatever the model, and that cut the model over them.
_FILLING = ("vllm", "sglang")
_CUT = frozenset({"tensor_parallel_size", "tp", "tp_size", "pipeline_parallel_size"})
_QUANTISED = re.compile(r"quant|4bit|8bit|bnb|awq|gptq|gguf", re.IGNORECASE)
#: Bytes of a weight that is made smaller while it is loaded; embeddings and vision towers stay as they are.
_ON_LOAD = (
    (re.compile(r"8bit|int8|fp8", re.IGNORECASE), 1.2),
    (re.compile(r"4bit|bnb|bitsandbytes|nf4", re.I), 0.75),
)
_OFFLOADED = re.compile(r"offload|max_memory", re.IGNORECASE)
#: 4 bits to a weight; with a name only, what stays in 16 bits is counted in.
_FEWEST_BYTES = 0.5
_NAMED_FEW_BITS_BYTES = 0.7
_NAMED_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_NAMED_FEW_BITS = re.compile(r"awq|gptq|int4|4bit|bnb|nf4", re.IGNORECASE)


class Source(StrEnum):
    """Where an estimate comes from."""

    REQUEST = "the request"
    EARLIER_RUNS = "earlier runs"
    PARAMETERS = "parameters and number format"
    NAME = "the model's name"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on each GPU; `likely` None: not known; `least` None: nothing is beyond doubt."""

    likely: int | None
    least: int | None
    whole_gpus: bool
    source: Source


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model: `parameters` and `dtype` as its tags (``lmms.parameters``, ``lmms.dtype``) say."""

    adapter: str
    parameters: int | None = None
    dtype: str | None = None
    arguments: Mapping[str, str] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class ObservedPeak:
    """Largest memory on one GPU in an earlier run of the same model."""

    memory: int
    gpus: int
    batch_size: int = 1


def estimate_memory(
    model: ModelFacts,
    gpus: int,
    *,
    batch_size: int = 1,
    asked: int | None = None,
    earlier: Sequence[ObservedPeak] = (),
) -> MemoryEstimate:
    """What the model needs on each of its GPUs.

    Args:
        gpus: GPUs that the job gets; with several, each holds a whole copy unless the arguments cut the model.
        asked: what the request says, which stands above all.
        earlier: peaks of earlier runs; those with as many GPUs and no larger batch count.
    """
    whole = any(name in model.adapter.lower() for name in _FILLING)
    least = _least(model, gpus)
    if asked is not None:
        return MemoryEstimate(asked, min(asked, least) if least else None, whole, Source.REQUEST)
    alike = [peak.memory for peak in earlier if peak.gpus == gpus and peak.batch_size >= batch_size]
    if alike and not whole:
        peak = int(max(alike) * _PEAK_MARGIN)
        return MemoryEstimate(peak, min(peak, least) if least else None, whole, Source.EARLIER_RUNS)
    weights, source = _weights(model)
    if weights is None:
        return MemoryEstimate(None, least, whole, Source.UNKNOWN)
    each = weights / (gpus if _is_cut(model) else 1)
    likely = each + _CONTEXT + batch_size * (_PER_SAMPLE + _PER_SAMPLE_SHARE * each)
    return MemoryEstimate(int(likely), least, whole, source)


def after_out_of_memory(estimate: MemoryEstimate) -> MemoryEstimate:
    """For the one more attempt of a job that ran out of memory: twice as much, on whole GPUs."""
    likely = None if estimate.likely is None else 2 * estimate.likely
    return replace(estimate, likely=likely, whole_gpus=True)


def _arguments(model: ModelFacts) -> Mapping[str, str]:
    return model.arguments or {}


def _is_cut(model: ModelFacts) -> bool:
    arguments = _arguments(model)
    return any(name in arguments for name in _CUT) or arguments.get("device_map", "").lower().startswith(
        ("auto", "balanced", "sequential")
    )


def _bytes(dtype: str | None) -> float | None:
    return None if dtype is None else _BYTES.get(dtype.upper().removeprefix("TORCH."))


def _quantisation(model: ModelFacts) -> str:
    """The arguments that speak of quantisation, as one text; empty: none does."""
    off = ("", "false", "0", "none")
    given = _arguments(model).items()
    return " ".join(f"{k}={v}" for k, v in given if _QUANTISED.search(k) and v.strip().lower() not in off)


def _load_bytes(model: ModelFacts) -> float | None:
    """Bytes of one weight as the arguments ask for it; None: they do not say."""
    smaller = _quantisation(model)
    arguments = _arguments(model)
    return next(
        (size for pattern, size in _ON_LOAD if pattern.search(smaller)),
        _bytes(arguments.get("dtype") or arguments.get("torch_dtype")),
    )


def _weights(model: ModelFacts) -> tuple[float | None, Source]:
    """Likely bytes of all weights."""
    if model.parameters:
        stored = _bytes(model.dtype) or _USUAL_BYTES
        # Whole numbers are packed weights: they are loaded as they are stored. Floats are usually loaded in 16 bits.
        size = stored if _is_packed(model) else _load_bytes(model) or min(stored, _USUAL_BYTES)
        return model.parameters * size, Source.PARAMETERS
    arguments = _arguments(model)
    text = (model.name or arguments.get("pretrained", "") or arguments.get("model", "")).rsplit("/", 1)[-1]
    sizes = [float(size) for size in _NAMED_SIZE.findall(text)]
    if not sizes:
        return None, Source.UNKNOWN
    size = _NAMED_FEW_BITS_BYTES if _NAMED_FEW_BITS.search(text) else _load_bytes(model) or _USUAL_BYTES
    return max(sizes) * 1e9 * size, Source.NAME


def _is_packed(model: ModelFacts) -> bool:
    return (model.dtype or "").upper().startswith(("I", "U"))


def _least(model: ModelFacts, gpus: int) -> int | None:
    """What each GPU must hold however the weights are loaded and cut; a name proves nothing."""
    stored = _bytes(model.dtype)
    if not model.parameters or stored is None or any(_OFFLOADED.search(name) for name in _arguments(model)):
        return None
    smallest = min(stored, _load_bytes(model) or _USUAL_BYTES, _USUAL_BYTES)
    if _quantisation(model) and not _is_packed(model):
        smallest = min(smallest, _FEWEST_BYTES)
    return int(model.parameters * smallest * _SURE_SHARE / max(gpus, 1))
