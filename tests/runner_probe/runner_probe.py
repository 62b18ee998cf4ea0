"""An lmms-eval adapter for the runner's tests: it adds, errs on purpose, and can be told to die.

It notes each request in a journal, so that a test sees what was asked and when. Answers come from the prompt alone.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm


def manifest() -> ModelManifest:
    """Register the adapter."""
    return ModelManifest(model_id="runner_probe", simple_class_path="runner_probe.RunnerProbe")


class RunnerProbe(lmms):
    """Adds the two numbers of the prompt."""

    def __init__(
        self, journal: str = "", kill_after: int = 0, fail: str = "", batch_size: int = 1, **_: object
    ) -> None:
        super().__init__()
        if fail == "load":
            raise OSError("no weights at /nowhere")
        if fail == "exit":
            raise SystemExit("key missing")
        if fail == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self._journal = Path(journal) if journal else None
        self._kill_after = int(kill_after)
        self._asked = 0

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answer each prompt."""
        return [self._answer(request) for request in tqdm(requests, desc="Model Responding")]

    def _answer(self, request: Any) -> str:
        prompt, settings = request.args[0], request.args[1]
        left, right = (int(number) for number in re.findall(r"(\d+) plus (\d+)", prompt)[-1])
        answer = str(left + right + (1 if (left + right) % 5 == 0 else 0))
        if (settings.get("temperature") or 0) > 0:
            answer = f"{answer} {secrets.token_hex(4)}"
        if left == 7 and right == 7:
            answer = ""
        self._note(request, answer)
        return answer

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Say how far each choice is from the sum."""
        return [self._likelihood(request) for request in tqdm(requests, desc="Model Responding")]

    def _likelihood(self, request: Any) -> tuple[float, bool]:
        left, right = (int(number) for number in re.findall(r"(\d+) plus (\d+)", request.args[0])[-1])
        choice = int(request.args[1])
        self._note(request, str(choice))
        distance = abs(left + right - choice)
        return -float(distance), distance == 0

    def _note(self, request: Any, answer: str) -> None:
        self._asked += 1
        if self._journal is not None:
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps([request.task_name, request.doc_id, request.idx, answer]) + "\n")
        if self._kill_after and self._asked == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not needed."""
        raise NotImplementedError
