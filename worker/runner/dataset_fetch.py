"""Fetches one configuration of a data set and makes it ready for loading, as lmms-eval's own `load_dataset` finds it.

The data set's own program, where it has one, is never run here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from worker.runner.fetch_events import FetchEvents
from worker.runner.fetch_space import Growth, check_space
from worker.runner.file_lock import locked

_HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<revision>[^/]+)/(?P<path>.+)")
_AT_ONCE = 500


def fetch_dataset(item: Mapping[str, Any], reserve: int, events: FetchEvents) -> None:
    """Bring the configuration's files into the cache and prepare them; quick when that was done.

    Raises:
        FetchError, and whatever the libraries raise (`fetch_failure.explain`).
    """
    name, config = str(item["name"]), item.get("config")
    builder: Any = datasets.load_dataset_builder(name, config, **dict(item.get("options") or {}))
    if Path(str(builder.cache_dir)).exists():
        return
    cache = Path(constants.HF_HUB_CACHE)
    lock = f"{repo_folder_name(repo_id=name, repo_type='dataset')}--{config or ''}.lock".replace("/", "--")
    with locked(cache / ".locks" / "mlflow-lmms" / lock, lambda: events.tell("waiting")):
        total, missing = _sizes(builder)
        prepared = int(builder.info.dataset_size or total)
        check_space(name, Path(str(builder.cache_dir)), missing + prepared, reserve)
        folder = cache / repo_folder_name(repo_id=name, repo_type="dataset") / "blobs"
        with Growth(folder, total - missing, total, lambda done, all_: events.tell("fetching", done, all_)):
            builder.download_and_prepare()
        events.tell("fetching", total, total)


def _sizes(builder: Any) -> tuple[int, int]:
    """Bytes of the configuration's files on the Hub, and of those that are not here."""
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    for paths in (getattr(builder.config, "data_files", None) or {}).values():
        for path in paths:
            if found := _HUB_FILE.fullmatch(str(path)):
                files[found["repo"], found["revision"]].append(found["path"])
    total = missing = 0
    for (repo, revision), paths in files.items():
        for start in range(0, len(paths), _AT_ONCE):
            told = HfApi().get_paths_info(
                repo, paths[start : start + _AT_ONCE], repo_type="dataset", revision=revision
            )
            for file in told:
                size = int(getattr(file, "size", 0) or 0)
                total += size
                here = try_to_load_from_cache(repo, file.path, revision=revision, repo_type="dataset")
                missing += 0 if isinstance(here, str) else size
    return total, missing
