"""What a task needs before it can run: a judge, a sign-in, a download, code of its data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.source_text import Definition, SourceTexts
from mlflow_lmms.catalogue.yaml_walk import FunctionReference, TaskFile, function_reference

LOCAL_BUILDERS = frozenset({"arrow", "csv", "json", "pandas", "parquet", "text"})
_FOLDER_BUILDERS = frozenset({"audiofolder", "imagefolder", "videofolder"})
REMOTE = re.compile(r"^(?:https?|hf|s3|gs)://")
#: In lower case; looked for as text, which is many times quicker than a pattern.
_JUDGE = (
    "openai", "azure_", "get_server", "llm_judge", "api_key", "anthropic", "gpt-4", "gpt4", "gpt_4", "gpt-eval",
    "gpt_eval", "chat/completions", "dashscope", "judge(",
)  # fmt: skip


def scoring_references(file: TaskFile) -> list[FunctionReference]:
    """The functions that score: `process_results` and each metric's aggregation."""
    found = []
    if (reference := file.function("process_results")) is not None:
        found.append(reference)
    for entry in file.config.get("metric_list") or ():
        if isinstance(entry, dict):
            origin = file.origins.get("metric_list", file.path)
            found += [r for r in (function_reference(entry.get(k), origin) for k in ("metric", "aggregation")) if r]
    return found


class JudgeReader:
    """Tells whether a judge model scores; each definition and folder is looked at once."""

    def __init__(self, sources: SourceTexts) -> None:
        self._sources = sources
        self._words: dict[tuple[str, str], str | None] = {}
        self._folders: dict[str, str | None] = {}

    def read(self, file: TaskFile) -> Derived:
        """The values are yes, maybe and no."""
        references = scoring_references(file)
        for reference in references:
            for definition in self._sources.closure(reference):
                if (word := self._word(definition)) is not None:
                    return Derived("yes", f"{reference.name} reaches {definition.name}, which says {word!r}", 0.8)
        for folder in sorted({os.path.dirname(reference.file) for reference in references}):  # noqa: PTH120 (speed)
            if (word := self._in_folder(folder)) is not None:
                return Derived("maybe", f"a Python file of its folder says {word!r}, not what scores it", 0.4)
        return Derived("no", "nothing of its code speaks of a judge", 0.8)

    def _word(self, definition: Definition) -> str | None:
        key = (definition.file, definition.name)
        if key not in self._words:
            self._words[key] = _first([definition.text])
        return self._words[key]

    def _in_folder(self, folder: str) -> str | None:
        if folder not in self._folders:
            self._folders[folder] = _first(self._sources.beside(folder))
        return self._folders[folder]


def _first(texts: Iterable[str]) -> str | None:
    return next((word for text in map(str.lower, texts) for word in _JUDGE if word in text), None)


def derive_token(config: Mapping[str, Any]) -> Derived:
    """Whether its data set is asked for with a Hugging Face sign-in."""
    if _options(config).get("token") is True:
        return Derived(True, "dataset_kwargs.token: a sign-in to the Hub, or a cache that holds the data", 0.7)
    return Derived(False, "dataset_kwargs.token is not set", 0.7)


def derive_download(config: Mapping[str, Any]) -> Derived:
    """Whether its data come from elsewhere."""
    path = str(config.get("dataset_path") or "")
    options = _options(config)
    files = list(data_files(options.get("data_files")))
    if path in LOCAL_BUILDERS | _FOLDER_BUILDERS:
        remote = [file for file in files if REMOTE.match(file)]
        if remote:
            return Derived(True, f"dataset_kwargs.data_files: {remote[0]}", 0.95)
        return Derived(False, "its files lie beside the task file", 0.95)
    if path.startswith(("/", "./", "../")):
        return Derived(False, f"dataset_path is the folder {path}", 0.9)
    if not path:
        return Derived(None, "no dataset_path", 0.0)
    media = (
        f", and its videos below {options['cache_dir']}" if options.get("video") and "cache_dir" in options else ""
    )
    return Derived(True, f"data set {path} of the Hugging Face Hub{media}", 0.9)


def derive_remote_code(config: Mapping[str, Any]) -> Derived:
    """Whether its data set brings a program of its own."""
    if _options(config).get("trust_remote_code") is True:
        return Derived(True, "dataset_kwargs.trust_remote_code: refused unless an admin allows it", 0.9)
    return Derived(False, "dataset_kwargs.trust_remote_code is not set", 0.9)


def data_files(value: Any) -> Iterable[str]:
    """The paths in a `data_files`: one, a list, or either for each split."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from data_files(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from data_files(item)


def _options(config: Mapping[str, Any]) -> Mapping[str, Any]:
    options = config.get("dataset_kwargs")
    return options if isinstance(options, dict) else {}
