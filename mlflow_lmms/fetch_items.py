"""What must be on a box before a model and its tasks can be loaded: the Hub's repositories, a model's own files.

Values in, values out. Where the files lie already, and who fetches them, is not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mlflow_lmms.catalogue.task import CatalogueTask
from mlflow_lmms.request import Identifier
from mlflow_lmms.work_order import ResolvedModel

#: The secret with which the Hub hands out what is not for everybody.
HUB_TOKEN = "HF_TOKEN"  # noqa: S105 - a name, not a secret
#: Arguments of lmms-eval's adapters that may name a repository of the Hub.
_REPOSITORY_ARGUMENTS = (
    *("pretrained", "model", "model_name_or_path", "model_path", "model_base", "peft", "tokenizer", "processor"),
    *("vision_tower", "speculative_draft_model_path"),
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")
#: What lmms-eval keeps to itself of a task's `dataset_kwargs`, and code of a data set, which a fetch never runs.
_NOT_FOR_DATASETS = frozenset(
    (
        *("video", "cache_dir", "force_download", "force_unzip", "create_link", "local_files_only", "max_retries"),
        *("num_proc", "trust_remote_code", "features"),
    )
)


class FetchItem(BaseModel):
    """One thing to fetch.

    A `model` is a repository's weights and settings; a `dataset` is one configuration, made ready for loading; with
    `whole` it is all files of its repository (videos), which `folder` stands for once lmms-eval has unpacked them; an
    `artifact` is a registered model's files.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["model", "dataset", "artifact"]
    name: str
    config: str | None = None
    revision: str | None = None
    options: dict[str, Any] = {}
    whole: bool = False
    folder: str | None = None
    artifact: ResolvedModel | None = None
    environment: Identifier | None = None
    token: bool = False

    @cached_property
    def key(self) -> str:
        """The same for equal items alone."""
        return f"{self.kind}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:20]}"

    def place(self, box: str, cache: str) -> str:
        """Where it is once: in a download cache, or on one box."""
        return f"box:{box}" if self.kind == "artifact" else cache


def fetch_items(
    model: ResolvedModel, tasks: Iterable[CatalogueTask], secrets: Iterable[str], environment: str | None
) -> tuple[FetchItem, ...]:
    """What a run of these tasks loads from elsewhere, the model first, each thing once."""
    told = {"environment": environment, "token": HUB_TOKEN in secrets}
    found: dict[str, FetchItem] = {}
    for item in (*_of_model(model, told), *(item for task in tasks for item in _of_task(task, told))):
        found.setdefault(item.key, item)
    return tuple(found.values())


def _of_model(model: ResolvedModel, told: Mapping[str, Any]) -> Iterator[FetchItem]:
    if model.artifact_uri is not None:
        # Neither secrets nor an environment matter for it, and its label says all that people need.
        kept = model.model_copy(update={"model_args": {}, "gpus": 0, "environment": None, "adapter": "-"})
        yield FetchItem(kind="artifact", name=model.label, artifact=kept)
    for argument in _REPOSITORY_ARGUMENTS:
        value = model.model_args.get(argument, "").strip()
        if argument != model.artifact_argument and _REPOSITORY.fullmatch(value):
            revision = model.model_args.get("revision") if argument in ("pretrained", "model") else None
            yield FetchItem(kind="model", name=value, revision=revision, **told)


def _of_task(task: CatalogueTask, told: Mapping[str, Any]) -> Iterator[FetchItem]:
    options = dict(task.dataset_kwargs)
    if task.download.value is not True or options.get("load_from_disk") or "From_YouTube" in options:
        return
    revision = options.get("revision") if isinstance(options.get("revision"), str) else None
    if options.get("video"):
        folder = str(options.get("cache_dir") or "") if not options.get("create_link") else ""
        yield FetchItem(
            kind="dataset", name=task.dataset, revision=revision, whole=True, folder=folder or None, **told
        )
    kept = {name: value for name, value in options.items() if name not in _NOT_FOR_DATASETS}
    if "builder_script" not in kept and _is_plain(kept):
        yield FetchItem(kind="dataset", name=task.dataset, config=task.dataset_name or None, options=kept, **told)


def _is_plain(options: Mapping[str, Any]) -> bool:
    """Whether options say in themselves what they mean; a function of the task's does not."""
    return "!function" not in json.dumps(options, default=lambda value: "!function")
