"""The lmms-eval side of the digit readers: `--model digits --model_args path=<artifact folder>`.

Hands prompt and pictures to the model and its words back. A document is only ever given to the task's own function
that makes the pictures; its label never reaches the model.
"""

from pathlib import Path

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
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

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer each prompt about its pictures."""
        responses = []
        for request in self._progress(requests):
            prompt, _generation, doc_to_visual, doc_id, task, split = request.args
            pictures = doc_to_visual(self.task_dict[task][split][doc_id])
            responses.append(answers.answer(prompt, [self._look(picture) for picture in pictures]))
        return responses

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Rate each proposed answer, and say whether it is the one the model would give."""
        responses = []
        for request in self._progress(requests):
            _prompt, continuation, doc_to_visual, doc_id, task, split = request.args
            (picture,) = doc_to_visual(self.task_dict[task][split][doc_id])
            reading = self._look(picture)
            greedy = int(reading.argmax()) in answers.meant_digits(continuation)
            responses.append((answers.log_likelihood(continuation, reading), greedy))
        return responses

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Conversations are beyond these models."""
        raise NotImplementedError("the digits adapter answers one question at a time")

    def _look(self, picture: Image.Image) -> Floats:
        return self._reader.probabilities(read(picture))

    def _progress(self, requests: list[Instance]) -> "tqdm[Instance]":
        return tqdm(requests, desc="Model Responding", disable=self.rank != 0)
