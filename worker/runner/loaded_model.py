"""The model of a part, loaded once however many tasks are evaluated.

Owns the stand-in that lmms-eval's `get_model` returns. `simple_evaluate` still gets the adapter's name and argument
string, which keeps its cache key the same in every process. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_eval import models

from worker.runner.failures import TaskFailure
from worker.runner.progress import Progress
from worker.runner.random_state import RandomState
from worker.runner.stored_answers import StoredAdapter


class LoadedModel:
    """Loads the adapter on first use and hands the same object out afterwards."""

    def __init__(self, name: str, progress: Progress, stored: Path | None = None) -> None:
        """Look the adapter up; with `stored` answers it is not needed, and they stand in for the model."""
        if name not in models.list_available_models(include_aliases=True):
            raise TaskFailure(
                "model_load",
                f"lmms-eval has no model adapter called {name!r}; correct the name, or install the package that "
                "registers it (entry point group lmms_eval.models) in the evaluation environment",
            )
        self._progress = progress
        self._adapter: Any = models.get_model(name) if stored is None else StoredAdapter(name, stored)
        self._model: Any = None
        self._after_load: RandomState | None = None
        self.task: str | None = None
        self.keep = True

    @property
    def task_type(self) -> str:
        """How tasks address this adapter: plain prompts (``simple``) or messages (``chat``)."""
        return "simple" if self._adapter.is_simple else "chat"

    @property
    def adapter_class(self) -> str:
        """The adapter's class with its module."""
        return f"{self._adapter.__module__}.{self._adapter.__qualname__}"

    def requests_at_once(self, batch_size: int) -> int:
        """How many requests the model works on together."""
        own = [getattr(self._model, name, None) for name in ("batch_size_per_gpu", "num_concurrent")]
        return max([batch_size, *(number for number in own if isinstance(number, int))])

    def create_from_arg_string(self, arguments: str, config: dict[str, Any] | None = None) -> Any:
        """Return the model; lmms-eval calls this once per task."""
        if self._model is None:
            self._progress.enter("model_load", self.task)
            self._model = self._adapter.create_from_arg_string(arguments, config)
            self._after_load = RandomState.take()
        elif self._after_load is not None:
            # lmms-eval has just seeded; loading would have drawn some numbers.
            self._after_load.restore()
        # lmms-eval strips the weights from the model when a task is answered; the next task needs them.
        if self.keep:
            self._model.clean = _keep_weights
        else:
            self._model.__dict__.pop("clean", None)
        self._progress.enter("dataset", self.task)  # lmms-eval builds the prompts next
        return self._model

    def release_unused_memory(self) -> None:
        """Give back what a failed task held on the accelerator, the model aside."""
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def in_place_of_loading(self) -> Iterator[None]:
        """Let lmms-eval find this object where it looks adapters up."""
        original = models.get_model

        def get_model(model_name: str, force_simple: bool = False) -> LoadedModel:
            return self

        models.get_model = get_model
        try:
            yield
        finally:
            models.get_model = original


def _keep_weights() -> None:
    """Stand in for `lmms.clean`, which deletes the adapter's modules."""
