"""The benchmark catalogue: tasks, groups and tags of lmms-eval and of the user's own task folders.

Read from the YAML files alone; neither lmms_eval nor torch is imported, and nothing is downloaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mlflow_lmms.errors import ConfigurationError, InvalidRequestError

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _TaskLoader(_Loader):  # type: ignore[misc]
    """Reads ``!function module.name`` as that text instead of importing it."""


_TaskLoader.add_constructor("!function", lambda loader, node: f"!function {loader.construct_scalar(node)}")


@dataclass(frozen=True)
class CatalogueTask:
    """One task as its YAML file describes it."""

    name: str
    path: Path
    output_type: str
    dataset: str
    tags: tuple[str, ...]
    own: bool


@dataclass
class Catalogue:
    """All that can be asked for by name. `complete` is false where lmms-eval is not installed beside the server."""

    tasks: dict[str, CatalogueTask] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = True

    def expand(self, names: Iterable[str]) -> list[str]:
        """The leaf tasks behind tasks, groups and tags, in order, each once.

        Raises:
            InvalidRequestError: a name that is in none of them, with the nearest that are.
        """
        found: dict[str, None] = {}
        for name in names:
            for task in self._leaves(name, ()):
                found.setdefault(task)
        return list(found)

    def _leaves(self, name: str, inside: tuple[str, ...]) -> Iterator[str]:
        if name in inside:
            raise InvalidRequestError(f"group {name!r} contains itself, by way of {' → '.join(inside)}")
        if name in self.groups:
            for member in self.groups[name]:
                yield from self._leaves(member, (*inside, name))
        elif name in self.tasks:
            yield name
        elif name in self.tags:
            yield from self.tags[name]
        elif self.complete:
            raise InvalidRequestError(self._unknown(name, inside))
        else:
            yield name

    def _unknown(self, name: str, inside: tuple[str, ...]) -> str:
        if inside:
            return f"group {inside[-1]!r} names {name!r}, which is no task, group or tag: ask for other tasks of it"
        known = {known.lower(): known for known in (*self.tasks, *self.groups, *self.tags)}
        near = [known[match] for match in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)]
        hint = f"; did you mean {', '.join(near)}?" if near else "; the page *New evaluation* searches all of them"
        return f"lmms-eval has no task, group or tag {name!r}{hint}"

    def search(self, text: str = "") -> list[CatalogueTask]:
        """Tasks whose name, dataset or tags contain all words of `text`; one's own first, then by name."""
        words = text.lower().split()
        hits = [
            task
            for task in self.tasks.values()
            if all(word in " ".join((task.name, task.dataset, *task.tags)).lower() for word in words)
        ]
        return sorted(hits, key=lambda task: (not task.own, task.name))


def installed_tasks_folder() -> Path | None:
    """The tasks folder of the installed lmms-eval, found without importing it; None where it is not installed."""
    spec = find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def read_catalogue(task_folders: Sequence[Path]) -> Catalogue:
    """Read the installed lmms-eval's tasks and those of `task_folders`, which win over a name of the former.

    Raises:
        ConfigurationError: a task folder that is not there.
    """
    for folder in task_folders:
        if not folder.is_dir():
            raise ConfigurationError(f"task folder {folder} is not a folder: correct MLFLOW_LMMS_TASK_FOLDERS")
    installed = installed_tasks_folder()
    catalogue = Catalogue(complete=installed is not None)
    if installed is not None:
        _add_folder(catalogue, installed, own=False)
    for folder in task_folders:
        _add_folder(catalogue, folder, own=True)
    return catalogue


def _add_folder(catalogue: Catalogue, folder: Path, *, own: bool) -> None:
    for path in sorted(folder.rglob("*.yaml")):
        config = _read(path, ())
        if config:
            _add(catalogue, config, path, own=own)


def _read(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    """One YAML file with its `include`s merged in; empty when it is no mapping or cannot be read."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)  # noqa: S506 (a safe loader's subclass)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(config, dict):
        return {}
    merged: dict[str, Any] = {}
    includes = config.pop("include", None)
    for include in _listed(includes):
        target = (path.parent / include).resolve()
        if target not in including:
            merged.update(_read(target, (*including, path.resolve())))
    return {**merged, **config}


def _add(catalogue: Catalogue, config: Mapping[str, Any], path: Path, *, own: bool) -> None:
    task = config.get("task")
    if isinstance(task, list) and isinstance(config.get("group"), str):
        catalogue.groups[config["group"]] = tuple(_members(catalogue, task, path, own=own))
    elif isinstance(task, str):
        tags = (*_listed(config.get("tag")), *_listed(config.get("group")))
        catalogue.tasks[task] = CatalogueTask(
            name=task,
            path=path,
            output_type=str(config.get("output_type") or "generate_until"),
            dataset=str(config.get("dataset_path") or ""),
            tags=tags,
            own=own,
        )
        for tag in tags:
            members_of_tag = catalogue.tags.setdefault(tag, [])
            if task not in members_of_tag:
                members_of_tag.append(task)


def _members(catalogue: Catalogue, items: Sequence[Any], path: Path, *, own: bool) -> Iterator[str]:
    for item in items:
        task = item.get("task") if isinstance(item, dict) else item
        if isinstance(task, list):  # a group inside this one: its name is no name to ask for, other groups use it too
            yield from _members(catalogue, task, path, own=own)
        elif isinstance(task, str):
            if isinstance(item, dict) and task not in catalogue.tasks:
                _add(catalogue, item, path, own=own)
            yield task


def _listed(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
