"""Which judge scores a task, as far as the environment tells: kind, model and address, never a key.

Owns the names of the variables that lmms-eval 0.7.3 and its tasks read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from worker.runner.task_code import may_call_judge

_VARIABLES: dict[str, tuple[str, ...]] = {
    "type": ("API_TYPE",),
    "model": ("JUDGE_MODEL_VERSION", "OPENAI_JUDGE_MODEL", "MODEL_VERSION", "GPT_EVAL_MODEL_NAME", "DEPLOYMENT_NAME"),
    "address": ("OPENAI_API_URL", "OPENAI_BASE_URL", "OPENAI_API_BASE", "AZURE_ENDPOINT", "AZURE_OPENAI_ENDPOINT"),
}


def judge_of(task: Any, environ: Mapping[str, str] = os.environ) -> dict[str, str | None] | None:
    """Describe the judge of a task that may use one; None for another task. What is not set is the task's choice."""
    if not may_call_judge(task):
        return None
    told = {name: _first(environ, variables) for name, variables in _VARIABLES.items()}
    address = told["address"]
    return {**told, "address": urlsplit(address).hostname if address else None}


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)
