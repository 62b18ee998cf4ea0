"""A pasted lmms-eval command becomes a request: what is taken, left out and refused, and that no secret is kept."""

from __future__ import annotations

import ast
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.lmms_eval_command import LEFT_OUT, REFUSED, TAKEN, read_command

QWEN = "Qwen/Qwen2.5-VL-3B-Instruct"
PIXELS = {"max_pixels": "12845056", "use_flash_attention_2": "True", "interleave_visuals": "True"}

#: Commands in the manner of lmms-eval's documentation and examples, and the fields that they must become.
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    (
        f"python -m lmms_eval \\\n  --model qwen2_5_vl \\\n  --model_args pretrained={QWEN} \\\n"
        "  --tasks mme \\\n  --batch_size 1 \\\n  --limit 8",
        {"adapter": "qwen2_5_vl", "model_args": {"pretrained": QWEN}, "tasks": ("mme",), "limit": 8, "gpus": None},
    ),
    (f"lmms-eval --model qwen2_5_vl --model_args pretrained={QWEN} --tasks mme", {"batch_size": 1}),
    (f"lmms-eval eval --model qwen2_5_vl --model_args pretrained={QWEN} --tasks mme,mmmu_val", {"gpus": None}),
    (
        "accelerate launch --num_processes=8 --main_process_port=12346 -m lmms_eval --model qwen2_5_vl "
        f"--model_args=pretrained={QWEN},max_pixels=12845056,use_flash_attention_2=True,interleave_visuals=True "
        "--tasks mmmu_pro --batch_size 1",
        {"gpus": 8, "launch": "data-parallel", "model_args": {"pretrained": QWEN, **PIXELS}},
    ),
    (
        "accelerate launch --num_processes=8 --main_process_port 12399 -m lmms_eval --model=llava_onevision1_5 "
        "--model_args=pretrained=lmms-lab/LLaVA-OneVision-1.5-8B-Instruct,attn_implementation=flash_attention_2 "
        "--tasks=mmerealworld,chartqa,docvqa_val,ocrbench --batch_size=1",
        {"gpus": 8, "tasks": ("mmerealworld", "chartqa", "docvqa_val", "ocrbench")},
    ),
    (
        "python3 -m accelerate.commands.launch \\\n  --num_processes=4 \\\n  -m lmms_eval \\\n  --model llava \\\n"
        '  --model_args pretrained="liuhaotian/llava-v1.5-7b,conv_template=qwen_2" \\\n  --tasks mme,mmbench_en \\\n'
        "    --batch_size 1 \\\n    --log_samples \\\n    --log_samples_suffix llava_v1.5_mme \\\n"
        "    --output_path ./logs/",
        {"gpus": 4, "model_args": {"pretrained": "liuhaotian/llava-v1.5-7b", "conv_template": "qwen_2"}},
    ),
    (
        "accelerate launch --num_processes=1 -m lmms_eval --model llava_onevision --model_args "
        "pretrained=lmms-lab/llava-onevision-qwen2-0.5b-si,conv_template=qwen_1_5 --tasks gqa --batch_size 1",
        {"gpus": None, "launch": "auto"},
    ),
    (
        "CUDA_VISIBLE_DEVICES=3 python3 -m accelerate.commands.launch --num_processes=1 -m lmms_eval --model llava "
        "--model_args pretrained=a/b --tasks pope",
        {"gpus": 1, "launch": "auto"},
    ),
    (
        "CUDA_VISIBLE_DEVICES=0,1 python -m lmms_eval --model llava --model_args pretrained=a/b,device_map=auto "
        "--tasks pope",
        {"gpus": 2, "launch": "single"},
    ),
    (
        "torchrun --nproc_per_node=8 --standalone -m lmms_eval --model llava_vid --model_args pretrained=a/b "
        "--tasks activitynetqa --batch_size 1",
        {"gpus": 8, "launch": "data-parallel"},
    ),
    (
        "torchrun --nproc-per-node 2 --master-port 29501 -m lmms_eval --model internvl2 --model_args "
        "pretrained=OpenGVLab/InternVL2-8B,modality=image --tasks mmstar",
        {"gpus": 2},
    ),
    (
        "python -m torch.distributed.run --nproc_per_node=2 -m lmms_eval --model gemma3 --model_args "
        "pretrained=google/gemma-3-4b-it --tasks mme",
        {"gpus": 2},
    ),
    (
        "python3 -m lmms_eval --model=llava --model_args=pretrained=lmms-lab/llava-next-72b,conv_template=qwen_1_5,"
        "device_map=auto,model_name=llava_qwen --tasks=pope,vizwiz_vqa_val,scienceqa_img --batch_size=1 "
        '--log_samples --log_samples_suffix=llava_qwen --output_path="./logs/" --wandb_args=project=lmms-eval',
        {"gpus": None, "tasks": ("pope", "vizwiz_vqa_val", "scienceqa_img")},
    ),
    (
        "uv run python -m lmms_eval --model vllm_chat --model_args model=Qwen/Qwen3-VL-30B-A3B-Instruct,"
        "tensor_parallel_size=4,data_parallel_size=1,gpu_memory_utilization=0.85 --tasks mmmu_val,mme "
        "--batch_size 64 --output_path ./logs/qwen3vl_vllm --log_samples --log_samples_suffix qwen3vl_vllm",
        {"gpus": 4, "launch": "auto", "batch_size": 64},
    ),
    (
        "python -m lmms_eval --model sglang --model_args model=a/b,tensor_parallel_size=2,data_parallel_size=2,"
        "threads=16 --tasks mmmu_val --batch_size 64",
        {"gpus": 4},
    ),
    (
        'export HF_HOME="~/.cache/huggingface"\nexport OPENAI_API_KEY="xai-xxxxxxxxxx"\n\n\npython3 -m lmms_eval \\\n'
        "    --model openai \\\n    --model_args model_version=grok-2-vision-1212 \\\n    --tasks ai2d,chartqa \\\n"
        "    --batch_size 1",
        {"secrets": ("OPENAI_API_KEY",), "gpus": None, "model_args": {"model_version": "grok-2-vision-1212"}},
    ),
    (
        "# pip install git+https://github.com/EvolvingLMMs-Lab/lmms-eval.git\naccelerate launch --num_processes=8 -m "
        "lmms_eval \\\n --model llama_vision --model_args pretrained=meta-llama/Llama-3.2-11B-Vision-Instruct \\\n"
        " --tasks ai2d,chartqa,docvqa_val,mmmu_pro --batch_size 1\n",
        {"gpus": 8},
    ),
    (
        "accelerate launch --num_processes 4 --mixed_precision bf16 --num_machines 1 -m lmms_eval --model idefics2 "
        "--model_args pretrained=HuggingFaceM4/idefics2-8b --tasks mme",
        {"gpus": 4},
    ),
    (
        "accelerate launch --multi_gpu --gpu_ids 4,5 --num_processes 2 -m lmms_eval --model phi3v --tasks mme",
        {"gpus": 2},
    ),
    (
        "accelerate launch --num_processes=8 -m lmms_eval --model openai --model_args model_version=gpt-5-mini "
        "--tasks mme",
        {"gpus": None, "launch": "auto"},
    ),
    ("python -m lmms_eval --model dummy --tasks mme --device cpu --limit -1", {"limit": None}),
    ("python -m lmms_eval --model qwen2_vl --model_args pretrained=a/b --tasks mme --device cpu", {"gpus": 0}),
    (
        "python -m lmms_eval --model qwen2_vl --model_args pretrained=a/b --tasks gsm8k --num_fewshot 5 --seed 42",
        {"num_fewshot": 5, "seeds": {"python": 42, "numpy": 42, "torch": 42, "fewshot": 42}},
    ),
    (
        "python -m lmms_eval --model qwen2_vl --model_args pretrained=a/b --tasks mme --seed 1,2,3,4 --limit 16.0",
        {"seeds": {"python": 1, "numpy": 2, "torch": 3, "fewshot": 4}, "limit": 16},
    ),
    (
        "python -m lmms_eval --model qwen2_vl --model_args pretrained=a/b --tasks mme "
        "--gen_kwargs temperature=0,max_new_tokens=16 --use_cache ./cache --verbosity DEBUG",
        {"gen_kwargs": {"temperature": "0", "max_new_tokens": "16"}},
    ),
    (
        "python -m lmms_eval --model qwen2_vl --model_args pretrained=a/b --tasks mme -n 5 -b 4 -c ./cache",
        {"repeats": 5, "batch_size": 4},
    ),
    ("python -m lmms_eval --model qwen2_vl --model_args pretrained=a/b --tasks mme --num_samples 3", {"repeats": 3}),
    (
        "TOKENIZERS_PARALLELISM=false NCCL_DEBUG=INFO HF_TOKEN=hf_abc lmms-eval --model qwen2_vl "
        "--model_args pretrained=a/b --tasks mme --offset 10 --limit 5",
        {"secrets": ("HF_TOKEN",), "offset": 10, "limit": 5},
    ),
    (
        "lmms-eval --model models:/my-model/3 --tasks mme --batch_size 2",
        {"model": "models:/my-model/3", "adapter": None, "batch_size": 2},
    ),
    (
        "python -m lmms_eval --model openai_compatible --model_args "
        "'model_version=a,base_url=http://host/v1?a=1&b=2' --tasks mme",
        {"model_args": {"model_version": "a", "base_url": "http://host/v1?a=1&b=2"}},
    ),
]
REFUSALS = [
    ("", "got none"),
    ("lmms-eval --model a --tasks mme > log.txt", "'>'"),
    ("lmms-eval --model a --tasks mme | tee log", "'|'"),
    ("lmms-eval --model a --tasks mme && rm -rf /", "'&&'"),
    ("lmms-eval --model a --tasks mme; reboot", "';'"),
    ("lmms-eval --model a --tasks mme &", "'&'"),
    ("lmms-eval --model a --model_args pretrained=$MODEL --tasks mme", "'$MODEL'"),
    ("lmms-eval --model a --model_args pretrained=`pwd` --tasks mme", "'`'"),
    ("lmms-eval --model a --tasks 'mme", "no closing quotation"),
    ("lmms-eval --model a --tasks mme\nlmms-eval --model b --tasks mme", "one command, got 2 lines"),
    ("rm -rf /", "got 'rm'"),
    ("python evaluate.py --tasks mme", "python -m lmms_eval"),
    ("python -c 'import os'", "python -m lmms_eval"),
    ("lmms-eval tasks list", "evaluates nothing"),
    ("lmms-eval --tasks list", "mlflow-lmms catalog"),
    ("lmms-eval --model a --tasks mme --colour red", "no option '--colour'"),
    ("lmms-eval --model a --tasks mme extra", "no option 'extra'"),
    ("lmms-eval --model a --tasks mme --trust_remote_code", "administrator"),
    ("lmms-eval --model a --tasks mme --apply_chat_template", "--apply_chat_template is not taken"),
    ("lmms-eval --model a --tasks mme --config x.yaml", "submit --config"),
    ("lmms-eval --model a --tasks mme --batch_size auto", "auto"),
    ("lmms-eval --model a --tasks mme --limit 0.1", "share"),
    ("lmms-eval --tasks mme", "model"),
    ("lmms-eval --model a", "at least one task"),
    ("lmms-eval --model openai --tasks mme --model_args api_key=sk-abcdefghijklmnopqrstuvwx", "secret"),
    ("OPENAI_API_BASE=https://a.b/v1 lmms-eval --model openai --tasks mme", "OPENAI_API_BASE may change"),
    ("LD_PRELOAD=/tmp/x.so lmms-eval --model openai --tasks mme", "LD_PRELOAD may change"),
    ("accelerate launch --num_processes=many -m lmms_eval --model a --tasks mme", "1 to 64"),
    ("accelerate launch --num_machines 2 -m lmms_eval --model a --tasks mme", "one box"),
    ("accelerate launch --use_deepspeed -m lmms_eval --model a --tasks mme", "--use_deepspeed"),
    ("accelerate launch train.py --model a", "expected -m lmms_eval"),
    ("torchrun --nnodes 2 -m lmms_eval --model a --tasks mme", "one box"),
    ("accelerate config", "got 'accelerate'"),
]


@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_a_command_becomes_a_request(command: str, expected: dict[str, Any]) -> None:
    request = read_command(command).request
    found = {name: getattr(request, name) for name in expected}
    assert found | ({"seeds": request.seeds.model_dump()} if "seeds" in expected else {}) == expected


@pytest.mark.parametrize(("command", "reason"), REFUSALS)
def test_what_cannot_be_taken_is_refused_by_name(command: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_command(command)
    assert reason in refused.value.message


@pytest.mark.parametrize("command", [command for command, _ in COMMANDS if "\n" not in command])
def test_words_that_a_shell_has_cut_give_the_same(command: str) -> None:
    assert read_command(shlex.split(command)) == read_command(command) == read_command([command])


def test_what_is_left_out_is_named_with_the_reason_and_no_secret_is_kept() -> None:
    pasted = read_command(
        "OPENAI_API_KEY=sk-very-secret-0123456789 CUDA_VISIBLE_DEVICES=0 python -m lmms_eval --model qwen2_vl "
        "--model_args pretrained=a/b --tasks mme --output_path ./logs --wandb_args project=x"
    )
    assert [line.partition(":")[0] for line in pasted.left_out] == [
        "--output_path",
        "--wandb_args",
        "OPENAI_API_KEY",
        "CUDA_VISIBLE_DEVICES",
    ]
    assert all(line.partition(": ")[2] for line in pasted.left_out)
    assert "very-secret" not in repr(pasted)


def test_a_refusal_does_not_repeat_a_secret() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_command("OPENAI_API_KEY=sk-very-secret-0123456789 MY_OPTION=very-secret lmms-eval --model a --tasks mme")
    assert "very-secret" not in refused.value.message


def test_options_of_ours_win_over_the_command() -> None:
    given = {"gpus": 2, "priority": "high", "limit": 3}
    request = read_command("lmms-eval --model a --tasks mme --limit 9", given).request
    assert (request.gpus, request.priority, request.limit) == (2, "high", 3)


def test_every_option_of_the_installed_lmms_eval_has_an_answer() -> None:
    spec = find_spec("lmms_eval")
    if spec is None or spec.origin is None:
        pytest.skip("lmms-eval is not installed")
    tree = ast.parse(Path(spec.origin).with_name("__main__.py").read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    ]
    assert len(calls) > 40
    answered = TAKEN | LEFT_OUT.keys() | REFUSED.keys()
    for call in calls:
        options = [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
        flag = any(word.arg == "action" for word in call.keywords)
        for option in options:
            if option.startswith("--"):
                assert option[2:].replace("-", "_").replace("num_samples", "repeats") in answered, option
            try:
                read_command(["lmms-eval", "--model", "a", "--tasks", "mme", option, *([] if flag else ["1"])])
            except InvalidRequestError as error:
                assert "no option" not in error.message, option


@given(st.text(max_size=60))
def test_whatever_is_pasted_is_a_request_or_a_refusal(text: str) -> None:
    for command in (text, f"lmms-eval --model a --tasks mme {text}", f"A={text} lmms-eval --model a --tasks b"):
        try:
            read_command(command)
        except InvalidRequestError as error:
            assert error.message
