"""Finds results files below the given paths, and the samples files that belong to each.

Owns the file names of lmms-eval and lm-evaluation-harness, and that no link leads out of the given folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_lmms.errors import NotFoundError

# <date>_results.json and <date>_samples_<task>.jsonl; results_<date>.json and samples_<task>_<date>.jsonl
_LMMS_EVAL = re.compile(r"(?P<date>.*)_results\.json")
_LM_EVAL = re.compile(r"results_(?P<date>.*)\.json")
_LMMS_EVAL_SAMPLES = re.compile(r"(?P<date>.*?)_samples_(?P<task>.*)\.jsonl")
# What other programs call so, too: a file of such a name without results of lmms-eval in it is none of ours.
_DATED = re.compile(r"\d{8}_\d{4}|\d{4}-\d{2}-\d{2}")
_PACKED = re.compile(r".*(?:results|samples).*\.jsonl?\.(?:gz|bz2|xz|zst|zip)")
_LOOKED_AT = 1_000_000
_LM_EVAL_SAMPLES = re.compile(
    r"samples_(?P<task>.*)_(?P<date>\d{8}_\d{6}|\d{4}-\d{2}-\d{2}T\d{2}[-:]\d{2}[-:]\d{2}[^_]*)\.jsonl"
)


@dataclass(frozen=True)
class FoundResults:
    """One results file with its samples files by task; `folders` are its folder's names, from the given path on."""

    results: Path
    samples: dict[str, Path]
    folders: tuple[str, ...]


@dataclass
class Found:
    """Everything below the given paths."""

    runs: list[FoundResults] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)


def discover(paths: Iterable[Path]) -> Found:
    """Look through files and folders, in a stable order; a file that is reached twice counts once.

    Raises:
        NotFoundError: a path that does not exist.
    """
    found = Found()
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"{path} does not exist: name a results file of lmms-eval, or a folder with some")
        top = path.resolve()
        for folder, names in _folders(top, found) if top.is_dir() else [(top.parent, [top.name])]:
            _read_folder(folder, names, top, seen, found)
    return found


def _folders(top: Path, found: Found) -> Iterator[tuple[Path, list[str]]]:
    def unreadable(error: OSError) -> None:
        found.refused.append((Path(error.filename or top), f"it cannot be listed ({error.strerror})"))

    for folder, folders, names in os.walk(top, onerror=unreadable):
        folders.sort()
        for name in list(folders):
            link = Path(folder) / name
            if link.is_symlink():  # a loop, or out of the folder: os.walk does not follow it
                found.skipped.append((link, "a link to a folder: name the folder itself"))
        yield Path(folder), sorted(names)


def _read_folder(folder: Path, names: list[str], top: Path, seen: set[Path], found: Found) -> None:
    given = not top.is_dir()
    listed = sorted(entry.name for entry in folder.iterdir()) if given else names
    samples = {name: parts for name in listed if (parts := _samples_name(name)) is not None}
    used: set[str] = set()
    for name in names:
        date = _date_of_results(name, given=given)
        path = folder / name
        if date is None or _target(path) in seen:
            used |= {other for other, (when, _) in samples.items() if when == date and date is not None}
            continue
        seen.add(_target(path))
        own = {other: task for other, (when, task) in samples.items() if when == date}
        used |= own.keys()
        if reason := _leads_out(path, folder if given else top):
            found.refused.append((path, reason))
            continue
        if not given and _is_of_another_program(path):
            found.skipped.append((path, "it holds no results of lmms-eval"))
            continue
        inside = {}
        for other, task in own.items():
            if reason := _leads_out(folder / other, folder if given else top):
                found.refused.append((folder / other, reason))
            else:
                inside[task] = folder / other
        found.runs.append(FoundResults(path, inside, _folder_names(folder, top)))
    if not given:
        packed = [name for name in names if _PACKED.fullmatch(name)]
        found.skipped.extend((folder / name, "it is compressed: unpack it first") for name in packed)
        alone = [name for name in samples if name not in used and folder / name not in seen]
        found.skipped.extend((folder / name, "no results file of the same date lies beside it") for name in alone)


def _date_of_results(name: str, *, given: bool) -> str | None:
    """The date in a results file's name, empty where it has none; None for another file."""
    for pattern in (_LMMS_EVAL, _LM_EVAL):
        if match := pattern.fullmatch(name):
            return match["date"]
    return "" if name == "results.json" or (given and name.endswith(".json")) else None


def _samples_name(name: str) -> tuple[str, str] | None:
    for pattern in (_LM_EVAL_SAMPLES, _LMMS_EVAL_SAMPLES):
        if match := pattern.fullmatch(name):
            return match["date"], match["task"]
    match = re.fullmatch(r"samples_(?P<task>.*)\.jsonl", name)
    return None if match is None else ("", match["task"])


def _is_of_another_program(path: Path) -> bool:
    """Whether a small sound JSON file without a date in its name holds something else than results."""
    if _DATED.search(path.name) or not path.is_file() or path.stat().st_size > _LOOKED_AT:
        return False
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return not isinstance(content, dict) or "results" not in content


def _target(path: Path) -> Path:
    """Where a path leads; unlike `Path.resolve` it takes a link to itself."""
    return Path(os.path.realpath(path))


def _leads_out(path: Path, top: Path) -> str | None:
    target = _target(path)
    if not target.exists():
        return "it is a link that leads nowhere"
    return None if target.is_relative_to(top) else "it is a link that leads out of the folder"


def _folder_names(folder: Path, top: Path) -> tuple[str, ...]:
    start = top if top.is_dir() else folder
    return (start.name, *folder.relative_to(start).parts)
