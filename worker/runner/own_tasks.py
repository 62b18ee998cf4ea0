"""lmms-eval's own tasks: which files name them, and their part of the index, each read once in a process.

Reading almost two thousand files takes seconds. A process that is copied for each run (`worker.runner.fork_server`)
reads them before. Knows nothing of a run's own folders. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

from lmms_eval import tasks as lmms_tasks
from lmms_eval.tasks import TaskManager

_FOLDER = Path(lmms_tasks.__file__).parent
_NAMED = re.compile(rb"^(?:task|group)[ \t]*:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)


class OwnTasksManager(TaskManager):  # type: ignore[misc]
    """lmms-eval's index, which looks its own tasks up here."""

    def _get_task_and_group(self, task_dir: str) -> Any:
        if Path(task_dir) == _FOLDER:
            return copy.deepcopy(_index())
        return super()._get_task_and_group(task_dir)


def own_files(name: str) -> list[Path]:
    """The files among lmms-eval's own that define a task or group of this name, at a glance."""
    return _files().get(name.encode(), [])


def index_own_tasks() -> None:
    """Read it all now, so that no look-up in this process or in a copy of it has to."""
    _index()
    _files()


@functools.cache
def _index() -> Any:
    return TaskManager(include_defaults=False)._get_task_and_group(f"{_FOLDER}/")


@functools.cache
def _files() -> dict[bytes, list[Path]]:
    found: dict[bytes, list[Path]] = {}
    for file in _FOLDER.rglob("*.yaml"):
        for name in set(_NAMED.findall(file.read_bytes())):
            found.setdefault(name, []).append(file)
    return found
