"""Finds and loads lmms-eval tasks by name.

Owns the choice of task folders: the asked ones alone when they hold every name, since indexing lmms-eval's own folder
takes seconds. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmms_eval.tasks import TaskManager

from worker.runner.failures import TaskFailure
from worker.runner.random_state import seed_all
from worker.runner.request import RunRequest


class TaskSource:
    """Loads the tasks of one request; `manager` is lmms-eval's index of what can be loaded."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self.manager = self._index(include_defaults=not request.include_paths)
        self._complete = not request.include_paths

    def load(self, name: str, task_type: str) -> dict[str, Any]:
        """Return the leaf tasks that `name` stands for, with their data sets loaded."""
        if not self._complete and not self._self_contained(name):
            self.manager, self._complete = self._index(include_defaults=True), True
        if name not in self.manager.task_index:
            raise TaskFailure(
                "bad_request",
                f"lmms-eval has no task, group or tag called {name!r} in its own tasks or in "
                f"{list(self._request.include_paths)}; correct the name or add the folder that holds it",
            )
        seeds = self._request.seeds
        seed_all(seeds.python, seeds.numpy, seeds.torch)
        return dict(_leaves(self.manager.load_task_or_group(name, task_type)))

    def _index(self, include_defaults: bool) -> Any:
        return TaskManager(
            include_path=list(self._request.include_paths) or None,
            include_defaults=include_defaults,
            model_name=self._request.model,
        )

    def _self_contained(self, name: str) -> bool:
        """Whether this index knows the name and, for a group, every member's name."""
        index = self.manager.task_index
        if name not in index:
            return False
        if index[name]["type"] in ("task", "python_task"):
            return True
        members = index[name]["task"]
        if members == -1:  # lmms-eval's mark for a group that has a file of its own
            members = self.manager._get_config(name)["task"]
        return all(self._self_contained(m) for m in members if isinstance(m, str))


def _leaves(tree: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, task in tree.items():
        if isinstance(task, dict):
            yield from _leaves(task)
        else:
            yield str(name), task
