"""Runs a new task on a few of its documents with the real lmms-eval, without server, queue or model weights.

lmms-eval's model `dummy` answers everything with one text: the right answer of the first document, so that this one
must score. Owns the runner's process; the runner itself is started as a program, never imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlflow_lmms.errors import ConfigurationError, UnreadableOutputError

SAMPLES = 2
_TIME_LIMIT_S = 300
_SEEDS = {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
_END = 2000


@dataclass(frozen=True)
class Trial:
    """What a trial left: the task's result, and its samples file."""

    answer: str
    result: dict[str, Any]
    samples_file: Path


def can_try() -> bool:
    """Whether lmms-eval is installed beside this program."""
    return find_spec("lmms_eval") is not None


def try_task(task: str, task_folder: Path, answers: Sequence[str], work_folder: Path) -> Trial:
    """Evaluate the first documents of `task`; `answers` are right answers of the first, to choose one to say.

    Raises:
        ConfigurationError: lmms-eval is not installed here.
        UnreadableOutputError: the task failed; with lmms-eval's reason.
    """
    if not can_try():
        raise ConfigurationError("lmms-eval is not installed here: pip install 'mlflow-lmms[local]'")
    # The model's arguments are one text of name=value, with commas between: they cannot say every answer.
    answer = next((answer for answer in answers if not set(answer) & set(",=\n") and answer.strip() == answer), "A")
    events, console = _run(_request(task, task_folder, answer, work_folder), work_folder)
    output = work_folder / "output"
    finished = next((event for event in events if event.get("event") == "task-finished"), None)
    if finished is None:
        failed = next((event for event in events if event.get("event") == "task-failed"), {})
        reason = failed.get("message") or console[-_END:] or "the runner said nothing"
        raise UnreadableOutputError(f"the task {task} was written, but does not run: {reason}")
    result = json.loads((output / finished["result"]).read_text(encoding="utf-8"))
    return Trial(answer, result, output / result["samples_file"])


def _request(task: str, task_folder: Path, answer: str, work_folder: Path) -> dict[str, Any]:
    return {
        "protocol": 1,
        "run_id": "trial",
        "part": "0",
        "attempt": 1,
        "model": "dummy",
        "model_args": f"response={answer}",
        "tasks": [task],
        "include_paths": [str(task_folder.resolve())],
        "limit": SAMPLES,
        "offset": 0,
        "batch_size": 1,
        "num_fewshot": None,
        "seeds": _SEEDS,
        "gen_kwargs": None,
        "repeats": None,
        "chunk_size": SAMPLES,
        "cache_folder": str(work_folder / "cache"),
        "output_folder": str(work_folder / "output"),
        "thumbnail_bytes": 1_000_000,
        "device": None,
        "trust_remote_code": False,
    }


def _run(request: dict[str, Any], work_folder: Path) -> tuple[list[dict[str, Any]], str]:
    events_file = work_folder / "events.jsonl"
    with events_file.open("wb") as events:
        environment = {
            **os.environ,
            "LMMS_EVENT_FD": str(events.fileno()),
            "HF_DATASETS_CACHE": str(work_folder / "data"),
            "HF_HUB_OFFLINE": "1",
        }
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "worker.runner"],
                input=json.dumps(request).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[events.fileno()],
                env=environment,
                cwd=work_folder,
                timeout=_TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnreadableOutputError(f"the task did not end within {_TIME_LIMIT_S} s") from None
    lines = events_file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], ended.stdout.decode(errors="replace")
