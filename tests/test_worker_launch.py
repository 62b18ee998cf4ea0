"""How a part is launched: processes and arguments for every adapter of lmms-eval, and contradictions refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from mlflow_lmms.adapters import WITHOUT_GPU, installed_adapters
from mlflow_lmms.errors import InvalidRequestError
from worker.launch import Launch, plan_launch

SPLITTING = {
    "vllm": "tensor_parallel_size",
    "vllm_generate": "tensor_parallel_size",
    "longvila": "tensor_parallel_size",
    "whisper_vllm": "tensor_parallel_size",
    "aero_realtime_vllm": "tensor_parallel_size",
    "sglang": "tensor_parallel_size",
    "llava_sglang": "tp_size",
    "fastvideo": "num_gpus",
}


@pytest.mark.parametrize(("adapter", "argument"), SPLITTING.items())
def test_adapters_that_split_a_model_get_all_gpus_in_one_process(adapter: str, argument: str) -> None:
    assert plan_launch(adapter, {"model": "m"}, 4) == Launch(1, {"model": "m", argument: "4"})
    assert plan_launch(adapter, {argument: "4"}, 4) == Launch(1, {argument: "4"})
    assert plan_launch(adapter, {}, 1) == Launch(1, {})
    assert plan_launch(adapter, {}, 0) == Launch(1, {})


@pytest.mark.parametrize(("adapter", "argument"), SPLITTING.items())
def test_another_number_than_that_of_the_gpus_is_refused(adapter: str, argument: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{argument}=2 of {adapter} uses 2 GPUs, .* asks for 4"):
        plan_launch(adapter, {argument: "2"}, 4)
    with pytest.raises(InvalidRequestError, match="uses 2 GPUs"):
        plan_launch(adapter, {argument: "2"}, 1)
    with pytest.raises(InvalidRequestError, match=f"{argument} to be a whole number of at least 1, got 'all'"):
        plan_launch(adapter, {argument: "all"}, 4)


def test_a_models_layers_may_be_split_too() -> None:
    both = {"tensor_parallel_size": "2", "pipeline_parallel_size": "2"}
    assert plan_launch("vllm", both, 4) == Launch(1, both)
    layers = {"pipeline_parallel_size": "2"}
    assert plan_launch("vllm", layers, 8).model_args == {**layers, "tensor_parallel_size": "4"}
    with pytest.raises(InvalidRequestError, match="uses 4 GPUs"):
        plan_launch("vllm", both, 8)
    with pytest.raises(InvalidRequestError, match="pipeline_parallel_size=3"):
        plan_launch("vllm", {"pipeline_parallel_size": "3"}, 8)


@pytest.mark.parametrize("adapter", ["qwen2_5_vl", "llava_onevision", "internvl3", "a_plugins_own"])
def test_other_adapters_get_one_process_per_gpu(adapter: str) -> None:
    assert plan_launch(adapter, {"pretrained": "p"}, 4) == Launch(4, {"pretrained": "p"})
    assert plan_launch(adapter, {}, 1).processes == 1
    assert plan_launch(adapter, {}, 4, "single").processes == 1
    assert plan_launch(adapter, {"device_map": "auto"}, 4).processes == 1
    assert plan_launch(adapter, {"device_map": "cuda:0"}, 4).processes == 4


@pytest.mark.parametrize("adapter", [*sorted(WITHOUT_GPU), "async_hf_model", "async_hf", "nanovlm"])
def test_services_and_adapters_that_spread_by_themselves_get_one_process(adapter: str) -> None:
    assert plan_launch(adapter, {}, 4) == Launch(1, {})


@pytest.mark.parametrize(
    ("adapter", "arguments", "why"),
    [
        ("vllm", {}, "splits one model"),
        ("openai", {}, "nothing on a GPU"),
        ("async_hf_model", {}, "spreads requests"),
        ("qwen2_5_vl", {"device_map": "auto"}, "device_map=auto"),
    ],
)
def test_data_parallel_that_cannot_be_is_refused(adapter: str, arguments: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"launch=data-parallel .*{why}"):
        plan_launch(adapter, arguments, 2, "data-parallel")


def test_every_adapter_of_lmms_eval_that_takes_such_an_argument_is_known() -> None:
    """A new release may bring another one: its class takes a number of GPUs."""
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations
    models = Path(spec.submodule_search_locations[0]) / "models"
    takes = re.compile(r"^\s+(tensor_parallel_size|tp_size|num_gpus)\s*(:[^=\n]*)?=\s*[^,\n]+,\s*$", re.MULTILINE)
    found = {file.stem for file in models.glob("*/*.py") if takes.search(file.read_text(encoding="utf-8"))}
    named = {name for name in found if name in (installed_adapters() or ())}
    assert named == set(SPLITTING)


def test_every_adapter_that_refuses_several_processes_is_known() -> None:
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations
    models = Path(spec.submodule_search_locations[0]) / "models"
    for file in models.glob("*/*.py"):
        if "without accelerate/torchrun" in file.read_text(encoding="utf-8"):
            assert plan_launch(file.stem, {}, 4).processes == 1, file
