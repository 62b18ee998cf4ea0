"""Fetches a repository of the Hub into the download cache: a model's files, or all files of a data set.

The Hub's own library downloads; it keeps finished files, so that a fetch that was killed goes on with the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from worker.runner.fetch_events import FetchEvents
from worker.runner.fetch_space import Growth, check_space
from worker.runner.file_lock import is_free, locked

#: Weights in formats that are not loaded where the same folder has safetensors.
_OTHER_WEIGHTS = (
    *("pytorch_model*.bin", "pytorch_model.bin.index.json", "tf_model*.h5", "flax_model*.msgpack", "rust_model.ot"),
    *("*.onnx", "*.onnx_data", "*.gguf", "*.tflite", "*.mlmodel", "consolidated*.pth", "consolidated*.safetensors"),
)
#: Folders that repeat the weights for other programs.
_OTHER_FOLDERS = ("original", "onnx", "openvino", "gguf", "coreml")
_LEFTOVER = re.compile(r"(?P<blob>.+)\.[0-9a-f]{8}\.incomplete")
_WHERE_LOCKS_LIE = ".locks"


def fetch_repository(item: Mapping[str, Any], reserve: int, events: FetchEvents) -> None:
    """Bring the repository's files into the cache; quick when they are there.

    Raises:
        FetchError, and whatever the Hub's library raises (`fetch_failure.explain`).
    """
    kind, name = str(item["kind"]), str(item["name"])
    if item.get("folder") and (Path(constants.HF_HOME) / str(item["folder"])).exists():
        return  # lmms-eval has unpacked it there, and looks no further
    info = HfApi().repo_info(name, repo_type=kind, revision=item.get("revision"), files_metadata=True)
    files = {str(file.rfilename): int(file.size or 0) for file in getattr(info, "siblings", None) or ()}
    left_out = unwanted_files(files) if kind == "model" else []
    sizes = {file: size for file, size in files.items() if file not in left_out}
    cache = Path(constants.HF_HUB_CACHE)
    folder = repo_folder_name(repo_id=name, repo_type=kind)
    with locked(cache / _WHERE_LOCKS_LIE / "mlflow-lmms" / f"{folder}.lock", lambda: events.tell("waiting")):
        _remove_leftovers(cache, folder)
        there = {
            file
            for file in sizes
            if isinstance(try_to_load_from_cache(name, file, revision=info.sha, repo_type=kind), str)
        }
        already, total = sum(sizes[file] for file in there), sum(sizes.values())
        check_space(name, cache, total - already, reserve)
        with Growth(cache / folder / "blobs", already, total, lambda done, all_: events.tell("fetching", done, all_)):
            snapshot_download(name, repo_type=kind, revision=item.get("revision"), ignore_patterns=_exactly(left_out))
        events.tell("fetching", total, total)


def unwanted_files(files: Iterable[str]) -> list[str]:
    """The files of a model repository that hold its weights once more, in formats that are not loaded."""
    known = [PurePosixPath(file) for file in files]
    whole = {path.parent for path in known if fnmatch(path.name, "*.safetensors") and not _is_other(path)}
    return [
        str(path)
        for path in known
        if (path.parent in whole and _is_other(path))
        or (PurePosixPath() in whole and len(path.parts) > 1 and path.parts[0] in _OTHER_FOLDERS)
    ]


def _is_other(path: PurePosixPath) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in _OTHER_WEIGHTS)


def _exactly(files: Iterable[str]) -> list[str]:
    """Patterns that mean just these names."""
    return [re.sub(r"([*?[])", r"[\1]", file) for file in files]


def _remove_leftovers(cache: Path, folder: str) -> None:
    """Remove halves of files that nobody is downloading: the Hub's library does not take them up again."""
    blobs = cache / folder / "blobs"
    for file in blobs.glob("*.incomplete") if blobs.is_dir() else ():
        found = _LEFTOVER.fullmatch(file.name)
        if found and is_free(cache / _WHERE_LOCKS_LIE / folder / f"{found['blob']}.lock"):
            file.unlink(missing_ok=True)
