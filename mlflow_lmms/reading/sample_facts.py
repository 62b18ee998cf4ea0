"""Gathers from a task's samples, row by row, the evidence that the warnings rest on.

Pure; constant memory but for one bit a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_lmms.reading.result_warnings import TaskFacts


class SampleFacts:
    """Takes rows (one per document) in and fills the part of `TaskFacts` that comes from samples."""

    def __init__(
        self, output_type: str | None, *, judged: bool | None = None, doc_to_target: str | None = None
    ) -> None:
        self._output_type = output_type

    def add(
        self,
        doc_id: Any,
        *,
        target: Any,
        responses: Sequence[Any],
        values: Mapping[str, Any],
        input_text: str = "",
        options: int | None = None,
        scored: bool = True,
    ) -> str | None:
        """Take one document in; return why it is errored, None for a sound one.

        `responses`: the raw answers, or for likelihoods one [value, greedy] pair per option; `values`: what scoring
        returned, by metric, primary first; `options`: how many choices there are, where that is known.
        """
        return None

    def fill(self, facts: TaskFacts) -> None:
        """Write the evidence into the facts."""
