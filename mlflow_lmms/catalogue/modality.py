"""What a task shows the model besides text: images, video, audio, several of them, or nothing.

Derived from what the functions of `doc_to_visual` and `doc_to_messages` do, read as text. Frames of a video count as
video; a video with its sound track is video; what a model has to make does not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.source_text import Definition, SourceTexts
from mlflow_lmms.catalogue.yaml_walk import FunctionReference, TaskFile

MODALITIES = ("text", "image", "video", "audio", "mixed")
_SHOWN_BY = ("doc_to_visual", "doc_to_messages")
#: What neither shows nor reads anything: comments, docstrings, complaints.
_NOISE = re.compile(
    r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|#[^\n]*|^[ \t]*(?:raise|assert|print|sys\.exit|\w*logger)\b[^\n]*',
    re.MULTILINE,
)
_RETURN = re.compile(r"^[ \t]+return\b[^\n]*", re.MULTILINE)
_NOTHING = re.compile(r"^\s*return\s*(?:\[\s*\]|None)?\s*$")
_TYPED = re.compile(r"(?:[\"']type[\"']\s*:|media_type\s*=)\s*[\"'](video|audio|image|text)(?:_url)?[\"']")
_COLUMN = re.compile(r"\b(?:doc|sample|item|row)(?:\.get\(|\[)\s*f?[\"']([^\"']+)[\"']")
_COLUMNS_IN_TURN = re.compile(r"\bfor \w+ in [\[(]([^\])]*)[\])]")
_QUOTED = re.compile(r"[\"']([^\"']+)[\"']")
_WORDS = {
    "video": re.compile(r"video|mp4|mkv|\bfps\b|frames?\b|decord|\bclip", re.IGNORECASE),
    "audio": re.compile(r"audio|\bwav\b|speech|sampling_rate|waveform|\bsound", re.IGNORECASE),
    "image": re.compile(r"image|\bPIL\b|convert\(|\bimgs?\b|picture|jpe?g|png|screenshot", re.IGNORECASE),
}
_COLUMN_WORDS = {
    "video": re.compile(r"video|audio_?visual|frames?\b|mp4", re.IGNORECASE),
    "audio": re.compile(r"audio(?!_?visual)|wav|speech", re.IGNORECASE),
    "image": re.compile(r"image|img|picture|screenshot", re.IGNORECASE),
}
_NAME_WORDS = {
    "video": re.compile(r"video|movie"),
    "audio": re.compile(r"audio|speech|voice|sound|music|asr\b"),
    "image": re.compile(r"image|vqa|vision|visual|picture"),
}
#: Names such as `a2t`: what is shown and what is chosen from.
_SHORT = re.compile(r"(?:^|_)([aivt])2([aivt])(?:_|$)")
_SHORT_FOR = {"a": "audio", "i": "image", "v": "video", "t": "text"}
_LEAST_SHARE = 0.25
#: Where code and file say the same of tasks that differ: which documents each has, by its own description.
_BY_HAND = {
    "capability_action": "video",
    "capability_camera_movement": "video",
    "capability_dynamic_object_number": "video",
    "capability_event": "video",
}


class _Signs(NamedTuple):
    """What one definition says about media."""

    words: Counter[str]
    columns: frozenset[str]
    types: frozenset[str]
    shows_nothing: bool


class ModalityReader:
    """Derives modalities; each definition is looked at once."""

    def __init__(self, sources: SourceTexts) -> None:
        self._sources = sources
        self._signs: dict[tuple[str, str], _Signs] = {}

    def read(self, task: str, file: TaskFile) -> Derived:
        """The modality of one task."""
        if task in _BY_HAND:
            return Derived(
                _BY_HAND[task], "looked up by hand: its code takes either, its documents are of one kind", 0.9
            )
        config = file.config
        shown = [key for key in _SHOWN_BY if config.get(key) is not None]
        if not shown and "class" not in config:
            return Derived("text", "neither doc_to_visual nor doc_to_messages", 0.98)
        references = {key: reference for key in shown if (reference := file.function(key)) is not None}
        found = {
            key: definition
            for key, reference in references.items()
            if (definition := self._sources.definition(reference)) is not None
        }
        if not found:
            return _from_names(task, file)
        signs = [self._look(definition) for definition in found.values()]
        where = " and ".join(f"{key} ({definition.name})" for key, definition in found.items())
        if all(sign.shows_nothing for sign in signs):
            return Derived("text", f"{where} returns nothing", 0.95)
        derived = _from_signs(task, file, signs, where) or self._from_helpers(task, file, references, where)
        return derived or _from_names(task, file)

    def _from_helpers(
        self, task: str, file: TaskFile, references: dict[str, FunctionReference], where: str
    ) -> Derived | None:
        parts = [part for reference in references.values() for part in self._sources.closure(reference)]
        signs = [self._look(part) for part in parts]
        found = _from_signs(task, file, signs, f"{where} with what it calls")
        if found is None and any("text" in sign.types for sign in signs):
            return Derived("text", f"{where} makes messages of text alone", 0.85)
        return found

    def _look(self, definition: Definition) -> _Signs:
        key = (definition.file, definition.name)
        if key not in self._signs:
            self._signs[key] = _signs(definition.text)
        return self._signs[key]


def _signs(text: str) -> _Signs:
    code = _NOISE.sub("", text)
    returns = _RETURN.findall(code)
    columns = [*_COLUMN.findall(code)]
    for names in _COLUMNS_IN_TURN.findall(code):
        columns += _QUOTED.findall(names)
    return _Signs(
        words=Counter({media: len(words.findall(code)) for media, words in _WORDS.items()}),
        columns=frozenset(
            media for media, words in _COLUMN_WORDS.items() if any(words.search(column) for column in columns)
        ),
        types=frozenset(_TYPED.findall(code)),
        shows_nothing=bool(returns) and all(_NOTHING.match(line) for line in returns),
    )


def _from_signs(task: str, file: TaskFile, signs: Iterable[_Signs], where: str) -> Derived | None:
    words: Counter[str] = Counter()
    columns: set[str] = set()
    types: set[str] = set()
    for sign in signs:
        words += sign.words
        columns |= sign.columns
        types |= sign.types - {"text"}
    certain = columns | types
    if certain == {"image", "video"} and columns == {"video"}:
        return Derived("video", f"{where} reads a video and makes pictures of it", 0.8)
    if len(certain) == 1:
        (media,) = certain
        if media == "image" and words["video"] > words["image"]:
            return Derived("video", f"{where} makes pictures of a video", 0.75)
        return Derived(media, f"{where} reads or declares {media}", 0.92)
    named = [media for media in _WORDS if words[media]]
    if not certain and len(named) == 1:
        return Derived(named[0], f"{where} speaks of {named[0]} ({words[named[0]]}×)", 0.85)
    if not named:
        return None
    return _of_several(task, file, certain, words, where)


def _of_several(task: str, file: TaskFile, certain: set[str], words: Counter[str], where: str) -> Derived:
    said = ", ".join(f"{media} {words[media]}×" for media in _WORDS if words[media])
    evidence = f"{where} speaks of {said}"
    named = _named_media(task)
    if len(named) > 1 and named <= words.keys():
        return Derived("mixed", f"{evidence}; the task's name says {' and '.join(sorted(named))}", 0.8)
    # Code that serves every medium decides by document: only the name tells.
    share = 1 if len(words) == len(_WORDS) else sum(words.values()) * _LEAST_SHARE
    declared = (file.config.get("dataset_kwargs") or {}).get("video") is True
    if len(named) == 1 and words[next(iter(named))] >= share and not (declared and named == {"image"}):
        return Derived(next(iter(named)), f"{evidence}; the task's name says {next(iter(named))}", 0.7)
    if len(certain) > 1:
        return Derived("mixed", f"{where} reads {' and '.join(sorted(certain))}", 0.7)
    share = sum(words.values()) * _LEAST_SHARE
    if words["audio"] >= share and words["video"] + words["image"] >= share:
        return Derived("mixed", evidence, 0.5)
    if words["audio"] > words["video"] + words["image"]:
        return Derived("audio", evidence, 0.7)
    if words["video"] >= words["image"] or declared:
        return Derived("video", f"{evidence}{'; dataset_kwargs.video' if declared else ''}", 0.7)
    return Derived("image", evidence, 0.65)


def _named_media(task: str) -> set[str]:
    short = _SHORT.search(task)
    if short is not None:
        return {_SHORT_FOR[letter] for letter in short.groups()} - {"text"}
    return {media for media, words in _NAME_WORDS.items() if words.search(task.lower())}


def _from_names(task: str, file: TaskFile) -> Derived:
    if (file.config.get("dataset_kwargs") or {}).get("video") is True:
        return Derived("video", "dataset_kwargs.video; its functions do not say", 0.7)
    text = f"{task} {file.config.get('dataset_path', '')}".lower()
    for media, words in _NAME_WORDS.items():
        if words.search(text):
            return Derived(media, f"the name says {media}; its functions do not", 0.5)
    return Derived(None, "neither functions nor names say it", 0.0)
