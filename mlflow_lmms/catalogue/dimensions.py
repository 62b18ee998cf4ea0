"""Likely slices of a task: what its file declares, and fields with few values that its scoring reads or returns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.source_text import SourceTexts
from mlflow_lmms.catalogue.yaml_walk import TaskFile

#: Fields that lmms-eval's benchmarks file their documents under, commonest first.
_LIKELY = tuple(
    """category question_type subdomain source task type task_type split l2_category l2-category language sub_task
    duration subject field context domain sub_category level capability aspect problem_version difficulty subfield
    topic skill skills grade subset question_category task_name data_type dimension image_type answer_type ability
    scene emotion gender""".split()  # noqa: SIM905 (a list to read)
)
_QUOTED = re.compile(
    r"[\"'](" + "|".join(map(re.escape, sorted(_LIKELY, key=len, reverse=True))) + r")[\"']\s*[\]:,)]"
)


class DimensionReader:
    """Finds likely dimensions; each definition is looked at once."""

    def __init__(self, sources: SourceTexts) -> None:
        self._sources = sources
        self._found: dict[tuple[str, str], frozenset[str]] = {}

    def read(self, file: TaskFile) -> Derived:
        """A tuple of names, those declared first."""
        declared = tuple(declared_dimensions(file.config))
        reference = file.function("process_results")
        seen: set[str] = set()
        # The function and what it calls itself; deeper ones serve other tasks too.
        for definition in self._sources.closure(reference)[:4] if reference is not None else ():
            key = (definition.file, definition.name)
            if key not in self._found:
                self._found[key] = frozenset(_QUOTED.findall(definition.text))
            seen |= self._found[key]
        likely = tuple(name for name in _LIKELY if name in seen and name not in declared)
        if declared:
            return Derived((*declared, *likely), f"metadata: dimensions declares {', '.join(declared)}", 1.0)
        if likely and reference is not None:
            return Derived(likely, f"{reference.name} reads or returns them", 0.6)
        return Derived((), "its scoring speaks of none; columns with few values become slices too", 0.3)


def declared_dimensions(config: dict[str, Any]) -> Iterator[str]:
    """The dimensions that a task file declares under `metadata: dimensions`."""
    metadata = config.get("metadata")
    for part in metadata if isinstance(metadata, list) else [metadata]:
        names = part.get("dimensions") if isinstance(part, dict) else None
        if isinstance(names, list):
            yield from (name for name in names if isinstance(name, str))
