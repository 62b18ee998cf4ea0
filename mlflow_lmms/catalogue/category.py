"""What a task is about, as one of a short list of categories."""

from __future__ import annotations

import re
from pathlib import PurePath

from mlflow_lmms.catalogue.category_table import BY_MODALITY, CATEGORIES, FOLDERS, WORDS
from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.yaml_walk import TaskFile

_WORDS = tuple((category, re.compile(words)) for category, words in WORDS)


def derive_category(task: str, file: TaskFile, folder: PurePath | None, modality: str | None) -> Derived:
    """The category of one task; `folder` is its folder below lmms-eval's own tasks, None for one's own."""
    stated = _stated(file)
    if stated is not None:
        return stated
    for path in (folder, *folder.parents) if folder is not None else ():
        if str(path) in FOLDERS:
            return Derived(FOLDERS[str(path)], f"the folder {path}, by our table", 0.9)
    said = " ".join((task, str(file.config.get("dataset_path") or ""), str(folder or file.path.parent.name))).lower()
    for category, words in _WORDS:
        if (match := words.search(said)) is not None:
            return Derived(category, f"the word {match[0]!r} in name, data set or folder", 0.6)
    if modality in BY_MODALITY:
        return Derived(BY_MODALITY[modality], f"its modality is {modality}", 0.4)
    return Derived(None, "no folder, word or modality says it", 0.0)


def _stated(file: TaskFile) -> Derived | None:
    metadata = file.config.get("metadata")
    category = metadata.get("category") if isinstance(metadata, dict) else None
    return Derived(category, "metadata: category", 1.0) if category in CATEGORIES else None
