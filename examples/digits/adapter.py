"""The lmms-eval side of the digit readers: `--model digits --model_args path=<artifact folder>`.

Hands prompt and pictures to the model and its words back. A document is only ever given to the task's own function
that makes the pictures; its label never reaches the model.
"""

from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from . import answers, readers
from .pixels import read
from .readers import Floats


class Digits(lmms):  # type: ignore[misc]
    """One digit reader as lmms-eval wants a model to look."""

    def __init__(
        self, path: str, batch_size: int | str = 1, max_batch_size: int | None = None, device: str | None = None
    ) -> None:
        """Load the reader from its artifact folder; one picture at a time on the CPU, whatever else is asked for."""
        super().__init__()
        self.device = "cpu"
        self._reader = readers.load(Path(path))
        # lmms-eval has seeded numpy by now, so its --seed decides what is sampled.
        self._chance = np.random.default_rng(np.random.randint(2**31))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer each prompt about its pictures."""
        responses = []
        for request in self._progress(requests):
            prompt, generation = request.args[:2]
            responses.append(answers.answer(prompt, self._look(request), self._pick(generation)))
        return responses

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Rate each proposed answer, and say whether it is the one the model would give."""
        responses = []
        for request in self._progress(requests):
            continuation = request.args[1]
            (reading,) = self._look(request)
            greedy = answers.likeliest(reading) in answers.meant_digits(continuation)
            responses.append((answers.log_likelihood(continuation, reading), greedy))
        return responses

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Conversations are beyond these models."""
        raise NotImplementedError("the digits adapter answers one question at a time: use generate_until tasks")

    def _look(self, request: Instance) -> list[Floats]:
        doc_to_visual, doc_id, task, split = request.args[2:]
        pictures = doc_to_visual(self.task_dict[task][split][doc_id])
        return [self._reader.probabilities(read(picture)) for picture in pictures]

    def _pick(self, generation: dict[str, Any]) -> answers.Pick:
        temperature = float(generation.get("temperature") or 0)
        return answers.sampler(temperature, self._chance) if temperature > 0 else answers.likeliest

    def _progress(self, requests: list[Instance]) -> "tqdm[Instance]":
        return tqdm(requests, desc="Model Responding", disable=self.rank != 0)
