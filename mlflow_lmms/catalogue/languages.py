"""The languages that a task's names state. No name, no language: English is not assumed."""

from __future__ import annotations

import re
from typing import Any

from mlflow_lmms.catalogue.derived import Derived

#: Codes that are no English words or usual abbreviations; `it`, `id` and the like stand only as whole names.
_CODES = {
    "ar": "Arabic", "bn": "Bengali", "cn": "Chinese", "cs": "Czech", "de": "German", "en": "English",
    "es": "Spanish", "fi": "Finnish", "fr": "French", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "ja": "Japanese", "jp": "Japanese", "ko": "Korean", "lt": "Lithuanian", "nl": "Dutch", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "yue": "Cantonese", "zh": "Chinese",
    "cmn": "Chinese",
}  # fmt: skip
_WHOLE = {"et": "Estonian", "id": "Indonesian", "it": "Italian", "th": "Thai"}
_NAMES = {name.lower(): name for name in (*_CODES.values(), *_WHOLE.values())} | {"mandarin": "Chinese"}
_WORD = re.compile(r"[a-z]+")


def derive_languages(task: str, config: dict[str, Any], folder: str) -> Derived:
    """A tuple of language names; None where none is stated."""
    metadata = config.get("metadata")
    stated = metadata.get("languages") if isinstance(metadata, dict) else None
    if isinstance(stated, list) and stated:
        return Derived(tuple(map(str, stated)), "metadata: languages", 1.0)
    part = str(config.get("dataset_name") or "").lower()
    if part in _WHOLE:
        return Derived((_WHOLE[part],), f"dataset_name {part}", 0.9)
    for source, text in (
        ("dataset_name", part),
        ("task name", task.lower()),
        ("split", _split(config)),
        ("folder", folder),
    ):
        words = _WORD.findall(text)
        found = dict.fromkeys(_NAMES.get(word) or _CODES.get(word, "") for word in words)
        found.pop("", None)
        if found:
            return Derived(tuple(found), f"the {source} {text}", 0.8)
    return Derived(None, "no name states one", 0.0)


def _split(config: dict[str, Any]) -> str:
    return str(config.get("test_split") or "").lower()
