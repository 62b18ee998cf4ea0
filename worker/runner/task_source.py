"""Finds and loads lmms-eval tasks by name.

Owns the choice of folders to index: those that hold the asked names where that can be told at a glance, since
indexing all of lmms-eval's own tasks takes seconds. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_eval import tasks as lmms_tasks
from lmms_eval.tasks import TaskManager

from worker.runner.failures import TaskFailure
from worker.runner.random_state import seed_all
from worker.runner.request import RunRequest

_OWN_TASKS = Path(lmms_tasks.__file__).parent
_NAMED = re.compile(rb"^(?:task|group)[ \t]*:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)


class TaskSource:
    """Loads the tasks of one request; a task of the asked folders wins over one of lmms-eval's own."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._folders = list(request.include_paths)
        self._complete: Any = None
        self.manager = self._index(self._folders)

    def load(self, name: str, task_type: str) -> dict[str, Any]:
        """Return the leaf tasks that `name` stands for, with their data sets loaded."""
        manager = self._manager_of(name)
        if name not in manager.task_index:
            raise TaskFailure(
                "bad_request",
                f"lmms-eval has no task, group or tag called {name!r} in its own tasks or in "
                f"{list(self._request.include_paths)}; correct the name or add the folder that holds it",
            )
        seeds = self._request.seeds
        seed_all(seeds.python, seeds.numpy, seeds.torch)
        return dict(_leaves(manager.load_task_or_group(name, task_type)))

    def _manager_of(self, name: str) -> Any:
        """Return an index that holds all that the name needs; the whole one only when nothing less does."""
        if not _holds(self.manager, name) and (folder := _own_folder(name)) is not None:
            self._folders.append(str(folder))
            self.manager = self._index(self._folders)
        if _holds(self.manager, name):
            return self.manager
        if self._complete is None:
            self._complete = self._index(list(self._request.include_paths), include_defaults=True)
        return self._complete

    def _index(self, folders: list[str], include_defaults: bool = False) -> Any:
        return _Index(include_path=folders or None, include_defaults=include_defaults, model_name=self._request.model)


class _Index(TaskManager):  # type: ignore[misc]
    """lmms-eval's index, but for its own tasks, which are read once in a process."""

    def _get_task_and_group(self, task_dir: str) -> Any:
        own = Path(task_dir) == _OWN_TASKS
        return copy.deepcopy(_own_index()) if own else super()._get_task_and_group(task_dir)


@functools.cache
def _own_index() -> Any:
    return TaskManager(include_defaults=False)._get_task_and_group(str(_OWN_TASKS))


def index_own_tasks() -> None:
    """Read what lmms-eval's own tasks are called, so that no later look-up in this process, or a copy, has to."""
    _own_index()
    _own_folders()


def _holds(manager: Any, name: str) -> bool:
    """Whether an index knows the name and, for a group, every member's name."""
    index = manager.task_index
    if name not in index or index[name]["type"] == "tag":
        return False  # a tag's members may lie in folders that are not indexed
    if index[name]["type"] != "group":
        return True
    members = manager._get_config(name)["task"]
    return all(isinstance(member, str) and _holds(manager, member) for member in members)


def _own_folder(name: str) -> Path | None:
    """Return the folder of the one file among lmms-eval's own tasks that defines `name`, if it is one."""
    folders = _own_folders().get(name.encode(), [])
    return folders[0] if len(folders) == 1 else None


@functools.cache
def _own_folders() -> dict[bytes, list[Path]]:
    """The folder of each file that defines a name, by name."""
    found: dict[bytes, list[Path]] = {}
    for file in _OWN_TASKS.rglob("*.yaml"):
        for name in set(_NAMED.findall(file.read_bytes())):
            found.setdefault(name, []).append(file.parent)
    return found


def _leaves(tree: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, task in tree.items():
        if isinstance(task, dict):
            yield from _leaves(task)
        else:
            yield str(name), task
