"""Estimates of GPU memory: 20 public models on usual GPUs, and each source of an estimate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlflow_lmms.planner.demand import demand_of
from mlflow_lmms.planner.fleet import GIB, MIB, Box, Gpu, Job
from mlflow_lmms.planner.memory_estimate import (
    MemoryEstimate,
    ModelFacts,
    ObservedPeak,
    Source,
    after_out_of_memory,
    estimate_memory,
)

#: Billions of parameters and commonest format of the safetensors files, as the models' pages on the Hugging Face Hub
#: show them (rounded); then GPUs that the model is known to run on, by its card or by arithmetic on its files' size.
MODELS: dict[str, tuple[float, str, tuple[tuple[str, int], ...]]] = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": (0.256, "BF16", (("T4", 1),)),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (0.894, "F16", (("T4", 1),)),
    "Qwen/Qwen2-VL-2B-Instruct": (2.21, "BF16", (("T4", 1),)),
    "google/paligemma-3b-mix-224": (2.92, "F32", (("T4", 1),)),
    "Qwen/Qwen2.5-VL-3B-Instruct": (3.75, "BF16", (("T4", 1),)),
    "microsoft/Phi-3.5-vision-instruct": (4.15, "BF16", (("T4", 1),)),
    "llava-hf/llava-1.5-7b-hf": (7.06, "F16", (("T4", 1), ("L4", 1))),
    "allenai/Molmo-7B-D-0924": (8.02, "F32", (("L4", 1),)),
    "OpenGVLab/InternVL2_5-8B": (8.08, "BF16", (("L4", 1),)),
    "openbmb/MiniCPM-V-2_6": (8.10, "BF16", (("L4", 1),)),
    "Qwen/Qwen2.5-VL-7B-Instruct": (8.29, "BF16", (("L4", 1), ("T4", 2))),
    "HuggingFaceM4/idefics2-8b": (8.40, "F32", (("L4", 1),)),
    "meta-llama/Llama-3.2-11B-Vision-Instruct": (10.7, "BF16", (("L4", 1), ("A100-40GB", 1))),
    "Qwen/Qwen2.5-Omni-7B": (10.7, "BF16", (("L4", 1), ("A100-40GB", 1))),
    "mistral-community/pixtral-12b": (12.7, "BF16", (("A100-40GB", 1),)),
    "Qwen/Qwen2.5-VL-72B-Instruct-AWQ": (12.6, "I32", (("L40S", 1), ("A100-80GB", 1))),
    "google/gemma-3-27b-it": (27.4, "BF16", (("A100-80GB", 1),)),
    "Qwen/Qwen2.5-VL-72B-Instruct": (73.4, "BF16", (("A100-80GB", 2), ("H200", 2), ("L40S", 4))),
    "OpenGVLab/InternVL2_5-78B": (78.4, "BF16", (("A100-80GB", 4), ("H200", 2))),
    "meta-llama/Llama-3.2-90B-Vision-Instruct": (88.6, "BF16", (("A100-80GB", 4), ("H100", 8), ("B200", 1))),
}
#: MiB as the driver tells them.
GPUS = {
    "T4": 15360, "L4": 23034, "RTX 4090": 24564, "A100-40GB": 40960, "L40S": 46068, "A100-80GB": 81920,
    "H100": 81559, "H200": 143771, "B200": 183359,
}  # fmt: skip


def box(gpu: str, count: int) -> Box:
    return Box("b", tuple(Gpu(f"g{i}", f"NVIDIA {gpu}", GPUS[gpu] * MIB) for i in range(count)))


def facts(name: str) -> ModelFacts:
    billions, dtype, _ = MODELS[name]
    return ModelFacts("qwen2_5_vl", int(billions * 1e9), dtype, {"pretrained": name}, name)


def impossible(estimate: MemoryEstimate, gpu: str, count: int) -> str | None:
    job = Job("r", "0", "u", count, 0.0, estimate.likely, estimate.least, estimate.whole_gpus)
    return demand_of(job, [box(gpu, count)]).impossible


@pytest.mark.parametrize(
    ("name", "gpu", "count"), [(name, *known) for name, (_, _, places) in MODELS.items() for known in places]
)
def test_no_model_is_refused_where_it_is_known_to_run(name: str, gpu: str, count: int) -> None:
    assert impossible(estimate_memory(facts(name), count), gpu, count) is None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("arguments", [{}, {"load_in_4bit": "True"}, {"quantization": "fp8"}, {"dtype": "float32"}])
def test_no_model_is_refused_whose_weights_fit(name: str, gpu: str, arguments: dict[str, str]) -> None:
    billions, dtype, _ = MODELS[name]
    size = {"I32": 3.5, "F32": 2, "BF16": 2, "F16": 2}[dtype]
    if arguments and dtype != "I32":
        size = {"load_in_4bit": 0.55, "quantization": 1.0, "dtype": 4.0}[next(iter(arguments))]
    for count in (1, 2, 4, 8):
        if billions * 1e9 * size / count < 0.97 * GPUS[gpu] * MIB:
            estimate = estimate_memory(replace(facts(name), arguments=arguments), count)
            assert impossible(estimate, gpu, count) is None


@pytest.mark.parametrize(
    ("name", "gpu", "count"),
    [
        ("Qwen/Qwen2.5-VL-72B-Instruct", "L4", 1),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "A100-80GB", 1),
        ("meta-llama/Llama-3.2-90B-Vision-Instruct", "L4", 4),
        ("google/gemma-3-27b-it", "A100-40GB", 1),
        ("OpenGVLab/InternVL2_5-78B", "T4", 4),
    ],
)
def test_models_are_refused_that_are_far_too_large(name: str, gpu: str, count: int) -> None:
    reason = impossible(estimate_memory(facts(name), count), gpu, count)
    assert reason is not None and "weights alone need" in reason and "ask for more GPUs" in reason


def test_a_name_alone_never_rules_a_gpu_out() -> None:
    named = ModelFacts("qwen2_5_vl", arguments={"pretrained": "Qwen/Qwen2.5-VL-72B-Instruct"})
    estimate = estimate_memory(named, 1)
    assert (estimate.source, estimate.least) == (Source.NAME, None)
    assert estimate.likely is not None and 134 * GIB < estimate.likely < 160 * GIB
    assert impossible(estimate, "T4", 1) is None


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen2.5-VL-7B-Instruct", 7), ("llava-1.5-13b-hf", 13), ("qwen2-0.5b-ov", 0.5)]
)
def test_the_size_is_read_from_a_name(name: str, billions: float) -> None:
    estimate = estimate_memory(ModelFacts("a", name=name), 1)
    assert estimate.likely is not None and billions * 2e9 < estimate.likely < billions * 2.2e9 + 2 * GIB


@pytest.mark.parametrize("name", ["InternVL2_5", "gpt-4o", "model.v7beta", "checkpoint-1000"])
def test_nothing_is_guessed_from_other_names(name: str) -> None:
    assert estimate_memory(ModelFacts("a", name=name), 1) == MemoryEstimate(None, None, False, Source.UNKNOWN)


def test_the_request_stands_above_earlier_runs_and_these_above_the_parameters() -> None:
    model, peaks = facts("Qwen/Qwen2.5-VL-7B-Instruct"), [ObservedPeak(18 * GIB, 1), ObservedPeak(20 * GIB, 1)]
    by_parameters = estimate_memory(model, 1)
    assert by_parameters.source is Source.PARAMETERS
    assert by_parameters.likely is not None and 16 * GIB < by_parameters.likely < 22 * GIB
    by_runs = estimate_memory(model, 1, earlier=peaks)
    assert (by_runs.source, by_runs.likely) == (Source.EARLIER_RUNS, int(22 * GIB))
    asked = estimate_memory(model, 1, earlier=peaks, asked=9 * GIB)
    assert (asked.source, asked.likely) == (Source.REQUEST, 9 * GIB)
    assert asked.least is not None and asked.least <= 9 * GIB


def test_peaks_of_smaller_batches_or_other_numbers_of_gpus_do_not_count() -> None:
    model = facts("Qwen/Qwen2.5-VL-7B-Instruct")
    peaks = [ObservedPeak(GIB, 2, 8), ObservedPeak(GIB, 1, 1)]
    assert estimate_memory(model, 1, batch_size=8, earlier=peaks).source is Source.PARAMETERS


def test_a_cut_model_needs_its_share_on_each_gpu_and_fills_it_under_vllm() -> None:
    model = replace(facts("Qwen/Qwen2.5-VL-72B-Instruct"), adapter="vllm", arguments={"tensor_parallel_size": "4"})
    estimate = estimate_memory(model, 4)
    assert estimate.whole_gpus
    assert estimate.likely is not None and 34 * GIB < estimate.likely < 42 * GIB


def test_weights_that_may_be_offloaded_prove_nothing() -> None:
    model = replace(facts("Qwen/Qwen2.5-VL-72B-Instruct"), arguments={"cpu_offload_gb": "100"})
    assert estimate_memory(model, 1).least is None


def test_after_out_of_memory_twice_as_much_is_asked_for_on_whole_gpus() -> None:
    first = estimate_memory(facts("Qwen/Qwen2.5-VL-7B-Instruct"), 1)
    again = after_out_of_memory(first)
    assert first.likely is not None and again.likely == 2 * first.likely
    assert again.whole_gpus and again.least == first.least
