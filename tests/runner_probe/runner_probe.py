"""An lmms-eval adapter for the runner's tests: it adds, errs on purpose, and can be told to die.

It notes each request in a journal, so that a test sees what was asked and when. Answers come from the prompt alone.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import time
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm


def manifest() -> ModelManifest:
    """Register the adapter."""
    return ModelManifest(model_id="runner_probe", simple_class_path="runner_probe.RunnerProbe")


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class RunnerProbe(lmms):  # type: ignore[misc]
    """Adds the two numbers of the prompt."""

    def __init__(self, fail: str = "", delay: float = 0, noise: str = "", count: str = "", **_: object) -> None:
        super().__init__()
        if noise:
            print('{"event": "task-finished", "task": "probe_sum", "result": "nowhere.json"}')  # noqa: T201
        if fail == "load":
            raise OSError("no weights at /nowhere")
        self.device = "cpu"
        # From the environment: as arguments they would be part of the answers' keys.
        self._journal = os.environ.get("PROBE_JOURNAL")
        self._kill_after = int(os.environ.get("PROBE_KILL_AFTER", "0"))
        self._delay = float(delay)
        self._count = count
        self._asked = 0

    def generate_until(self, requests: list[Any]) -> list[str | GenerationResult]:
        """Answer each prompt."""
        if os.environ.get("PROBE_RAISE_RANK", "none") == os.environ.get("RANK"):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        answers = [self._answer(request) for request in tqdm(requests, desc="Model Responding")]
        if not self._count:
            return list(answers)
        return [GenerationResult(answer, TokenCounts(20, len(answer))) for answer in answers]

    def _answer(self, request: Any) -> str:
        prompt, settings = request.args[0], request.args[1]
        left, right = (int(number) for number in re.findall(r"(\d+) plus (\d+)", prompt)[-1])
        answer = str(left + right + (1 if (left + right) % 5 == 0 else 0))
        if (settings.get("temperature") or 0) > 0:
            answer = f"{answer} {secrets.token_hex(4)}"
        if left == 7 and right == 7 and "PROBE_ANSWERS_ALL" not in os.environ:
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
        time.sleep(self._delay)
        self._asked += 1
        if self._journal is not None:
            with Path(self._journal).open("a", encoding="utf-8") as journal:
                journal.write(json.dumps([request.task_name, request.doc_id, request.idx, answer]) + "\n")
        if self._kill_after and self._asked == self._kill_after and self._chosen("PROBE_KILL_RANK"):
            print("about to be killed")  # noqa: T201
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _chosen(variable: str) -> bool:
        """Whether a variable names this rank, or none."""
        return os.environ.get(variable, os.environ.get("RANK")) == os.environ.get("RANK")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not needed."""
        raise NotImplementedError
