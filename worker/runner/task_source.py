"""Finds and loads lmms-eval tasks by name.

Owns the choice of folders to index: those that hold the asked names where that can be told at a glance, since
indexing all of lmms-eval's own tasks takes seconds. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_lmms.reading.group_members import SEPARATOR
from worker.runner.failures import TaskFailure
from worker.runner.group_tasks import GroupAwareManager
from worker.runner.own_tasks import own_files
from worker.runner.random_state import seed_all
from worker.runner.request import RunRequest


class TaskSource:
    """Loads the tasks of one request; a task of the asked folders wins over one of lmms-eval's own."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._folders = list(request.include_paths)
        self._complete: GroupAwareManager | None = None
        self.manager = self._index(self._folders)

    def load(self, name: str, task_type: str) -> dict[str, Any]:
        """Return the leaf tasks that `name` stands for, with their data sets loaded."""
        manager = self._manager_of(name)
        if name not in manager.task_index and not manager.add_member(name):
            raise TaskFailure(
                "bad_request",
                f"lmms-eval has no task, group or tag called {name!r} in its own tasks or in "
                f"{list(self._request.include_paths)}; correct the name or add the folder that holds it",
            )
        seeds = self._request.seeds
        leaves: dict[str, Any] = {}
        for leaf in self._leaf_names(manager, name):
            seed_all(seeds.python, seeds.numpy, seeds.torch)
            leaves |= dict(_leaves(manager.load_task_or_group(leaf, task_type)))
        return leaves

    def _leaf_names(self, manager: GroupAwareManager, name: str) -> list[str]:
        """A group's tasks under the names that they run under; lmms-eval's own expansion knows no such names."""
        if manager.kind(name) != "group":
            return [name]
        names = list(dict.fromkeys(member.name for member in manager.members(name)))
        for leaf in names:
            if leaf not in manager.task_index:
                manager.add_member(leaf)
        return names

    def _manager_of(self, name: str) -> GroupAwareManager:
        """Return an index that holds all that the name needs; the whole one only when nothing less does."""
        if not _holds(self.manager, name):
            folder = _own_folder(name.rpartition(SEPARATOR)[2])
            if folder is not None:
                self._folders.append(str(folder))
                self.manager = self._index(self._folders)
        if _holds(self.manager, name):
            return self.manager
        if self._complete is None:
            self._complete = self._index(list(self._request.include_paths), include_defaults=True)
        return self._complete

    def _index(self, folders: list[str], include_defaults: bool = False) -> GroupAwareManager:
        return GroupAwareManager(
            include_path=folders or None, include_defaults=include_defaults, model_name=self._request.model
        )


def _holds(manager: GroupAwareManager, name: str) -> bool:
    """Whether an index knows the name and, for a group, every member's name."""
    kind = manager.kind(name)
    if kind is None and SEPARATOR in name:
        return _holds(manager, name.rpartition(SEPARATOR)[2])
    if kind is None or kind == "tag":
        return False  # a tag's members may lie in folders that are not indexed
    return kind == "task" or manager.holds(name, lambda task: bool(own_files(task)))


def _own_folder(name: str) -> Path | None:
    """Return the folder of the one file among lmms-eval's own tasks that defines `name`, if it is one."""
    files = own_files(name)
    return files[0].parent if len(files) == 1 else None


def _leaves(tree: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, task in tree.items():
        if isinstance(task, dict):
            yield from _leaves(task)
        else:
            yield str(name), task
