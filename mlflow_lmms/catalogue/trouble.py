"""What is known to go wrong with a task in lmms-eval 0.7.3, said before it runs."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_lmms.catalogue.source_text import SourceTexts
from mlflow_lmms.catalogue.yaml_walk import FUNCTION, FunctionReference, TaskFile, function_reference

BUILT_IN_CHOICE = (
    "multiple_choice without process_results: lmms-eval 0.7.3 hands its built-in scoring text where it expects "
    "pairs, which raises; such a task fails without a score"
)


def known_trouble(file: TaskFile, output_type: str, sources: SourceTexts) -> Iterator[str]:
    """Every known trouble, one sentence each."""
    if output_type == "multiple_choice" and file.config.get("process_results") is None:
        yield BUILT_IN_CHOICE
    for key, reference in function_references(file):
        if sources.surely_lacks(reference):
            yield f"{key} names {reference.name}, which {reference.module}.py does not define: it cannot be loaded"


def function_references(file: TaskFile) -> Iterator[tuple[str, FunctionReference]]:
    """Every function that a task file names, with the key that names it."""
    for key, value in file.config.items():
        if isinstance(value, str):
            found = [(key, value)] if value.startswith(FUNCTION) else []
        elif isinstance(value, list):
            found = [
                (f"{key}: {inner}", text)
                for item in value
                if isinstance(item, dict)
                for inner, text in item.items()
                if isinstance(text, str) and text.startswith(FUNCTION)
            ]
        else:
            continue
        for where, text in found:
            reference = function_reference(text, file.origins.get(key, file.path))
            if reference is not None:
                yield where, reference
