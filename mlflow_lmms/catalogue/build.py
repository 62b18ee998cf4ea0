"""Reads the catalogue: the installed lmms-eval's tasks and those of one's own folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_lmms.catalogue.describe import TaskDescriber
from mlflow_lmms.catalogue.index import Catalogue
from mlflow_lmms.catalogue.task import CatalogueGroup
from mlflow_lmms.catalogue.yaml_walk import TaskFile, TaskFiles, installed_tasks_folder
from mlflow_lmms.errors import ConfigurationError, InvalidRequestError
from mlflow_lmms.reading.group_members import SEPARATOR, Member


def read_catalogue(task_folders: Sequence[Path]) -> Catalogue:
    """Read the installed lmms-eval's tasks and those of `task_folders`, which win over a name of the former.

    Raises:
        ConfigurationError: a task folder that is not there.
    """
    for folder in task_folders:
        if not folder.is_dir():
            raise ConfigurationError(f"task folder {folder} is not a folder: correct MLFLOW_LMMS_TASK_FOLDERS")
    return _Builder(installed_tasks_folder()).build(task_folders)


class _Builder:
    """Puts one catalogue together."""

    def __init__(self, installed: Path | None) -> None:
        self._installed = installed
        self._files = TaskFiles()
        self._describer = TaskDescriber(installed)
        self._configs: dict[str, tuple[TaskFile, bool]] = {}
        self._catalogue = Catalogue(complete=installed is not None)

    def build(self, task_folders: Sequence[Path]) -> Catalogue:
        if self._installed is not None:
            self._add_folder(self._installed, own=False)
        for folder in task_folders:
            self._add_folder(folder, own=True)
        for name, (file, own) in self._configs.items():
            self._catalogue.tasks[name] = self._describer.describe(name, file, own=own)
        for group in self._catalogue.group_files.values():
            self._catalogue.groups[group.name] = tuple(dict.fromkeys(self._names_in(group)))
        return self._catalogue

    def _add_folder(self, folder: Path, *, own: bool) -> None:
        for file in self._files.below(folder):
            task, group = file.config.get("task"), file.config.get("group")
            name = group if isinstance(task, list) else task
            if own and isinstance(name, str) and (theirs := self._path_of(name)) is not None:
                self._catalogue.replaced[name] = theirs
            if isinstance(task, list) and isinstance(group, str):
                self._catalogue.group_files[group] = CatalogueGroup(group, file.path, own, file.config)
            elif isinstance(task, str):
                self._configs[task] = (file, own)
                for tag in self._tags(file.config):
                    members = self._catalogue.tags.setdefault(tag, [])
                    if task not in members:
                        members.append(task)

    def _path_of(self, name: str) -> Path | None:
        """The file of lmms-eval's own that has this name."""
        if name in self._catalogue.group_files and not self._catalogue.group_files[name].own:
            return self._catalogue.group_files[name].path
        file, own = self._configs.get(name, (None, True))
        return None if own or file is None else file.path

    @staticmethod
    def _tags(config: Mapping[str, Any]) -> Iterator[str]:
        for key in ("tag", "group"):
            value = config.get(key)
            yield from [value] if isinstance(value, str) else map(str, value) if isinstance(value, list) else ()

    def _names_in(self, group: CatalogueGroup) -> Iterator[str]:
        """The names that a group's list shows; adds the tasks that only this group has."""
        if _is_plain(group.config):
            yield from _plain_names(group.config["task"])
            return
        try:
            members = list(self._catalogue.members(group.name))
        except InvalidRequestError:  # said again, with names, to who asks for the group; `catalog check` says it too
            yield from _plain_names(group.config["task"])
            return
        for member in members:
            if member.name.endswith(f"{SEPARATOR}{group.name}"):
                self._add_changed(member, group)
            yield member.name

    def _add_changed(self, member: Member, group: CatalogueGroup) -> None:
        base, _ = self._configs.get(member.base, (None, True))
        changes = self._files.merge(group.path, dict(member.overrides))
        if base is None:
            file = changes
        else:
            kept = {key: base.origins.get(key, base.path) for key in base.config if key not in changes.config}
            # Its functions lie beside the file that wrote them, not beside the group's.
            file = TaskFile(group.path, {**base.config, **changes.config}, {**kept, **changes.origins})
        self._catalogue.tasks[member.name] = self._describer.describe(member.name, file, own=group.own)


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a group only lists names: it changes no task and defines none."""
    if config.keys() - {"group", "group_alias", "task", "aggregate_metric_list", "metadata"}:
        return False
    return all(
        isinstance(item, str)
        or (isinstance(item, dict) and isinstance(item.get("task"), list) and _is_plain(item))
        or not isinstance(item, str | dict)
        for item in config["task"]
    )


def _plain_names(items: Sequence[Any]) -> Iterator[str]:
    for item in items:
        task = item.get("task") if isinstance(item, dict) else item
        if isinstance(task, str):
            yield task
        elif isinstance(task, list):
            yield from _plain_names(task)
