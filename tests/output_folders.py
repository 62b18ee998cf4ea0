"""Output folders as lmms-eval (0.3 to 0.7) and lm-evaluation-harness (0.4) write them, made by hand for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "20250101_120000"
LM_EVAL_DATE = "2025-01-01T12-00-00.123456"
CONSTANT_HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
Row = dict[str, Any]
#: Two wrong of ten.
SCORES = (1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0)


def mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def row(doc_id: int, **fields: Any) -> Row:
    """One line of a samples file of lmms-eval 0.7."""
    answer = f"answer {doc_id}"
    return {
        "doc_id": doc_id,
        "target": f"target {doc_id}",
        "filtered_resps": answer,
        "doc_hash": CONSTANT_HASH,
        "input": f"question {doc_id}",
        **fields,
    }


def rows(scores: Sequence[Any] = SCORES, metric: str = "exact_match") -> list[Row]:
    return [row(doc_id, **{metric: score}) for doc_id, score in enumerate(scores)]


def write_results(
    folder: Path,
    results: Mapping[str, Mapping[str, Any]],
    *,
    name: str = f"{DATE}_results.json",
    documents: int = len(SCORES),
    **content: Any,
) -> Path:
    """A results file; `content` replaces what stands beside the results."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "results": {task: {"alias": task, **entry} for task, entry in results.items()},
        "group_subtasks": {task: [] for task in results},
        "configs": {task: config(task, entry) for task, entry in results.items()},
        "n-samples": {task: {"original": documents, "effective": documents} for task in results},
        "n-shot": dict.fromkeys(results, 0),
        "config": {
            "model": "qwen2_vl",
            "model_args": "pretrained=Qwen/Qwen2-VL-2B-Instruct,dtype=bfloat16",
            "batch_size": "4",
            "limit": None,
            "gen_kwargs": "",
            "random_seed": 0,
            "numpy_seed": 1234,
            "torch_seed": 1234,
            "fewshot_seed": 1234,
        },
        "git_hash": "bbd344e",
        "date": DATE,
        "model_name": "Qwen/Qwen2-VL-2B-Instruct",
        "total_evaluation_time_seconds": "90.5",
        **{key.replace("n_samples", "n-samples"): value for key, value in content.items()},
    }
    path = folder / name
    path.write_text(json.dumps(whole, indent=2), encoding="utf-8")
    return path


def config(task: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    metrics = dict.fromkeys(name.partition(",")[0] for name in entry if "," in name and "_stderr" not in name)
    listed = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]
    return {"task": task, "output_type": "generate_until", "metric_list": listed, "num_fewshot": 0, "repeats": 1}


def write_samples(folder: Path, task: str, lines: Iterable[Row], *, name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{DATE}_samples_{task}.jsonl")
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def sound(folder: Path, task: str = "my_vqa", scores: Sequence[float] = SCORES, **content: Any) -> Path:
    """A sound results file with its samples; nothing is to be said against it."""
    entry = {"exact_match,none": mean(scores), "exact_match_stderr,none": 0.13}
    write_samples(folder, task, rows(scores))
    return write_results(folder, {task: entry}, documents=len(scores), **content)


def version_0_3(folder: Path) -> Path:
    """December 2024: the document is there, arguments are mangled, no other standard errors than one."""
    lines = [
        {
            "doc_id": doc_id,
            "doc": {"question_id": str(doc_id), "category": "cat" if doc_id < 5 else "dog", "ratio": 0.5},
            "target": f"target {doc_id}",
            "arguments": {"0": "mme"},
            "resps": [[f"answer {doc_id}"]],
            "filtered_resps": [f"answer {doc_id}"],
            "doc_hash": CONSTANT_HASH,
            "prompt_hash": "a" * 64,
            "target_hash": "b" * 64,
            "exact_match": score,
            "input": f"question {doc_id}",
        }
        for doc_id, score in enumerate(SCORES)
    ]
    write_samples(folder, "my_vqa", lines)
    entry = {"exact_match,none": 0.8, "exact_match_stderr,none": 0.13}
    return write_results(folder, {"my_vqa": entry}, git_hash=None)


def version_0_5(folder: Path) -> Path:
    """2025: arguments as a list, no document; a filtered answer as a list or as itself."""
    lines = [
        row(
            doc_id,
            arguments=[f"question {doc_id}", {"max_new_tokens": 16}, doc_id, "my_vqa", "test"],
            filtered_resps=[f"answer {doc_id}"] if doc_id % 2 else f"answer {doc_id}",
            exact_match=score,
        )
        for doc_id, score in enumerate(SCORES)
    ]
    write_samples(folder, "my_vqa", lines)
    entry = {"exact_match,none": 0.8, "exact_match_stderr,none": 0.13}
    return write_results(folder, {"my_vqa": entry}, config={"model": "vllm", "model_args": "model=Qwen/Qwen3-Omni"})


def version_0_6(folder: Path) -> Path:
    """Two more standard errors, and an offset; the folder is named as a file, as some users' output paths are."""
    inside = folder / "my_vqa.jsonl"
    write_samples(inside, "my_vqa", rows())
    entry = {
        "exact_match,none": 0.8,
        "exact_match_stderr,none": 0.13,
        "exact_match_stderr_clt,none": 0.133,
        "exact_match_stderr_clustered,none": "N/A",
        "submission,none": None,
        "submission_stderr,none": [],
    }
    return write_results(inside, {"my_vqa": entry}, group_subtasks="{'my_vqa': []}")


def version_0_7(folder: Path) -> Path:
    """The answers are no longer nested; token counts, usage, the command line's arguments."""
    tokens = [{"input_tokens": 300, "output_tokens": 12, "reasoning_tokens": 0}]
    write_samples(folder, "my_vqa", [{**own, "token_counts": tokens} for own in rows()])
    entry = {"exact_match,none": 0.8, "exact_match_stderr,none": 0.13, "exact_match_stderr_clt,none": 0.133}
    return write_results(
        folder,
        {"my_vqa": entry},
        lmms_eval_version="0.7.3@abc",
        config={
            "model": "qwen2_5_vl",
            "model_args": "pretrained=Qwen/Qwen2.5-VL-3B-Instruct",
            "limit": None,
            "resolved_cli_args": {"timezone": "UTC", "hf_hub_log_args": "token=hf_0123456789abcdefghij"},
        },
        throughput={"total": 3.5},
        usage={"total": {"input_tokens": 3000}},
    )


def version_lm_eval(folder: Path) -> Path:
    """lm-evaluation-harness 0.4: other file names, whole documents, a column that names the filter."""
    lines = [
        {
            "doc_id": doc_id,
            "doc": {"question": f"question {doc_id}", "answer": f"#### {doc_id}"},
            "target": f"#### {doc_id}",
            "arguments": {"gen_args_0": {"arg_0": f"Question: {doc_id}\nAnswer:", "arg_1": {"until": ["\n"]}}},
            "resps": [[f"it is {doc_id}"]],
            "filtered_resps": [f"{doc_id}" if name == "flexible-extract" else "[invalid]"],
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"{doc_id:064x}",
            "prompt_hash": "a" * 64,
            "target_hash": "b" * 64,
            "exact_match": score if name == "flexible-extract" else 0.0,
        }
        for name in ("flexible-extract", "strict-match")
        for doc_id, score in enumerate(SCORES)
    ]
    write_samples(folder, "gsm8k", lines, name=f"samples_gsm8k_{LM_EVAL_DATE}.jsonl")
    entry = {
        "exact_match,strict-match": 0.0,
        "exact_match_stderr,strict-match": 0.0,
        "exact_match,flexible-extract": 0.8,
        "exact_match_stderr,flexible-extract": 0.13,
    }
    return write_results(
        folder,
        {"gsm8k": entry},
        name=f"results_{LM_EVAL_DATE}.json",
        config={"model": "hf", "model_args": {"pretrained": "gpt2", "dtype": "float16"}, "batch_size": 8},
        pretty_env_info="PyTorch version: 2.4",
        lm_eval_version="0.4.9",
        date=1735732800.25,
    )


VERSIONS = {
    "lmms-eval 0.3": version_0_3,
    "lmms-eval 0.5": version_0_5,
    "lmms-eval 0.6": version_0_6,
    "lmms-eval 0.7": version_0_7,
    "lm-eval 0.4": version_lm_eval,
}
