"""A pasted ``lmms-eval …`` command line as a request of ours. Pure; it knows the options of lmms-eval 0.7.

Every option is taken, left out with the reason, or refused with the reason: none is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mlflow_lmms.adapters import WITHOUT_GPU
from mlflow_lmms.command_head import EXAMPLE, CommandHead, StrictParser, read_head
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.lmms_eval_config import request_fields
from mlflow_lmms.model_arguments import is_secret_name, parse_model_arguments
from mlflow_lmms.request import EvaluationRequest

_RECORDED = "the MLflow run keeps results, samples and log"
_CACHED = "answers are always kept, so that the run can go on where it stopped"
_OTHER_SERVICE = "results are recorded in MLflow"
_TEXT_ONLY = "it changes only what is printed"
_PROMPT = "it changes the prompts, and a request has no field for it"
_POWER = "a power analysis evaluates nothing"

#: Options whose meaning a request has.
TAKEN = frozenset(
    """model model_args tasks batch_size limit offset num_fewshot gen_kwargs seed repeats""".split()  # noqa: SIM905
)
LEFT_OUT = {
    "output_path": _RECORDED,
    "log_samples": _RECORDED,
    "log_samples_suffix": _RECORDED,
    "use_cache": _CACHED,
    "cache_requests": _CACHED,
    "max_batch_size": "it belongs to --batch_size auto",
    "device": "the worker leases the GPUs and makes them visible",
    "include_path": "an administrator names the task folders with MLFLOW_LMMS_TASK_FOLDERS",
    "process_with_media": "it is what lmms-eval does anyway",
    "process_docs_parallel": "it does not change results",
    "agentic_trace_mode": "it changes only how much is logged",
    "verbosity": _TEXT_ONLY,
    "show_config": _TEXT_ONLY,
    "write_out": _TEXT_ONLY,
    "timezone": _TEXT_ONLY,
    "wandb_args": _OTHER_SERVICE,
    "wandb_log_samples": _OTHER_SERVICE,
    "swanlab_args": _OTHER_SERVICE,
    "swanlab_log_samples": _OTHER_SERVICE,
    "hf_hub_log_args": _OTHER_SERVICE,
}
REFUSED = {
    "config": "give the file to `mlflow-lmms submit --config FILE`",
    "trust_remote_code": "it runs code from a data set's repository on the GPU box; an administrator decides that "
    "with MLFLOW_LMMS_TRUST_REMOTE_CODE",
    "system_instruction": _PROMPT,
    "apply_chat_template": _PROMPT,
    "fewshot_as_multiturn": _PROMPT,
    "reasoning_tags": "it changes what is scored, and a request has no field for it",
    "force_simple": "name the simple adapter as --model instead",
    "predict_only": "it gives no scores",
    "launcher_args": "start the judge's server yourself, and name its address in the worker's environment",
    "max_tokens": "it stops in the middle of a task, whose score is then no score; give --limit",
    "baseline": "compare runs on the leaderboard instead",
    "check_integrity": "it tests lmms-eval and evaluates nothing; `mlflow-lmms catalog check` checks tasks",
    "tui": "a request has no terminal",
    "power_analysis": _POWER,
    "effect_size": _POWER,
    "alpha": _POWER,
    "power": _POWER,
    "correlation": _POWER,
    "std_a": _POWER,
    "std_b": _POWER,
}
_FLAGS = frozenset(
    """log_samples check_integrity write_out wandb_log_samples swanlab_log_samples apply_chat_template
    fewshot_as_multiturn show_config predict_only trust_remote_code process_with_media force_simple tui
    power_analysis""".split()  # noqa: SIM905 (a list to read)
)
_ALIASES = {
    "batch_size": ("-b",),
    "use_cache": ("-c",),
    "write_out": ("-w",),
    "predict_only": ("-x",),
    "repeats": ("-n", "--num_samples"),
    "process_docs_parallel": ("--process-docs-parallel",),
    "power_analysis": ("--power-analysis",),
    "effect_size": ("--effect-size",),
    "std_a": ("--std-a",),
    "std_b": ("--std-b",),
}
_WITH_DASHES_ONLY = frozenset({"power_analysis", "effect_size", "std_a", "std_b"})
_LISTS = frozenset({"list", "list_groups", "list_tags", "list_subtasks"})
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_LOGGERS = ("WANDB_", "SWANLAB_")
#: Variables of the machine: they do not change what is evaluated.
_MACHINE = re.compile(
    r"(HF_HOME|HF_HUB_\w+|HF_DATASETS_\w+|HF_ENDPOINT|HUGGINGFACE_HUB_CACHE|TRANSFORMERS_CACHE|TRANSFORMERS_VERBOSITY"
    r"|TOKENIZERS_PARALLELISM|OMP_NUM_THREADS|MKL_NUM_THREADS|NCCL_\w+|GLOO_\w+|TORCH_DISTRIBUTED_DEBUG"
    r"|TORCH_NCCL_\w+|PYTORCH_CUDA_ALLOC_CONF|PYTHONUNBUFFERED|PYTHONWARNINGS|MASTER_ADDR|MASTER_PORT|VERBOSITY"
    r"|CUDA_DEVICE_ORDER|CUDA_LAUNCH_BLOCKING|VLLM_WORKER_MULTIPROC_METHOD)"
)


@dataclass(frozen=True)
class PastedCommand:
    """The request of a command, and what of the command it does not hold, each with the reason."""

    request: EvaluationRequest
    left_out: tuple[str, ...]


def read_command(command: str | Sequence[str], overrides: Mapping[str, Any] | None = None) -> PastedCommand:
    """Read a command line of lmms-eval, with or without variables and a launcher in front.

    Args:
        command: as pasted, or as words that a shell has already cut.
        overrides: request fields that win over the command's.

    Raises:
        InvalidRequestError: naming what cannot be taken, and why.
    """
    if not isinstance(command, str) and len(command) == 1 and any(map(str.isspace, command[0])):
        command = command[0]
    head = read_head(command)
    options, left_out = _options(head.arguments)
    fields = request_fields({name: value for name, value in options.items() if name in TAKEN})
    secrets, about_variables = _variables(head.variables)
    if secrets:
        fields["secrets"] = secrets
    fields |= _devices(head, fields, str(options.get("device", "")))
    request = EvaluationRequest.parse({**fields, **(overrides or {})})
    return PastedCommand(request, (*head.left_out, *left_out, *about_variables))


@cache
def _parser() -> StrictParser:
    parser = StrictParser("lmms-eval")
    for name in (*sorted(TAKEN), *LEFT_OUT, *REFUSED):
        own = () if name in _WITH_DASHES_ONLY else (f"--{name}",)
        if name in _FLAGS:
            parser.add_argument(*own, *_ALIASES.get(name, ()), dest=name, action="store_true")
        else:
            parser.add_argument(*own, *_ALIASES.get(name, ()), dest=name)
    return parser


def _options(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The options by name, and what is left out of them."""
    found, unknown = _parser().parse_known_args(arguments)
    if unknown:
        raise InvalidRequestError(f"lmms-eval has no option {unknown[0][:80]!r}; expected for example `{EXAMPLE}`")
    options = vars(found)
    if refused := [name for name in options if name in REFUSED]:
        reasons = "; ".join(f"--{name} is not taken: {REFUSED[name]}" for name in refused)
        raise InvalidRequestError(reasons)
    if options.get("tasks") in _LISTS:
        raise InvalidRequestError("--tasks list evaluates nothing; `mlflow-lmms catalog` lists the tasks")
    return options, [f"--{name}: {LEFT_OUT[name]}" for name in options if name in LEFT_OUT]


def _variables(variables: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The secrets to ask for by name, and what is left out; a variable's value goes nowhere."""
    secrets, left_out = [], []
    for name in variables:
        if name == _VISIBLE:
            left_out.append(f"{name}: the worker chooses the GPUs; how many there are is kept")
        elif name.startswith(_LOGGERS):
            left_out.append(f"{name}: {_OTHER_SERVICE}")
        elif is_secret_name(name):
            secrets.append(name)
            left_out.append(f"{name}: asked for by name; its value was not kept, the worker's box has its own")
        elif _MACHINE.fullmatch(name):
            left_out.append(f"{name}: set it on the worker's box, if it matters there")
        else:
            raise InvalidRequestError(
                f"the variable {name} may change what is evaluated, and a request does not carry variables: set it "
                "in the evaluation environment of the worker's box, and leave it out here"
            )
    return secrets, left_out


def _devices(head: CommandHead, fields: Mapping[str, Any], device: str) -> dict[str, Any]:
    """GPUs and launch: what the launcher starts, or what the command makes visible or splits the model over."""
    visible = head.gpu_ids if head.gpu_ids is not None else head.variables.get(_VISIBLE)
    count = None if visible is None else len([item for item in visible.split(",") if item.strip() not in ("", "-1")])
    if fields.get("adapter") in WITHOUT_GPU or "model" in fields:
        return {}  # it computes elsewhere; or the registered model says for itself what it needs
    if device == "cpu" or count == 0:
        return {"gpus": 0}
    if head.processes is not None and head.processes > 1:
        return {"gpus": head.processes, "launch": "data-parallel"}
    if count is not None:
        return {"gpus": count} | ({"launch": "single"} if count > 1 and not head.launcher else {})
    split = _split_over(fields)
    return {"gpus": split} if split > 1 else {}


def _split_over(fields: Mapping[str, Any]) -> int:
    """GPUs that vLLM or SGLang is told to use."""
    arguments = parse_model_arguments(str(fields.get("model_args", "")))
    sizes = [arguments.get(name, "1") for name in ("tensor_parallel_size", "data_parallel_size")]
    numbers = [int(size) if size.isdecimal() and len(size) < 4 else 1 for size in sizes]
    return min(64, numbers[0] * numbers[1])
