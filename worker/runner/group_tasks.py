"""Makes the tasks that exist only inside group files loadable by name: `task@group`.

A group may change settings of a task (few-shot, prompts) or define one in its own list. lmms-eval loads those only
with the whole group, and gives a task of a group's list no name of its own. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmms_eval.utils import load_yaml_config

from mlflow_lmms.reading.group_members import (
    SEPARATOR,
    GroupCycleError,
    GroupIndex,
    Kind,
    Member,
    UnknownMemberError,
    group_members,
)
from worker.runner.failures import TaskFailure
from worker.runner.own_tasks import OwnTasksManager

_KINDS: dict[str, Kind] = {"task": "task", "python_task": "task", "group": "group", "tag": "tag"}


class GroupAwareManager(OwnTasksManager):
    """lmms-eval's index, which also knows the tasks of the groups that were added to it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._member_configs: dict[str, dict[str, Any]] = {}

    def add_member(self, name: str) -> bool:
        """Make the task `task@group` known; tell whether the group is known and has it.

        Raises:
            TaskFailure: the group cannot be expanded.
        """
        group = name.rpartition(SEPARATOR)[2]
        if self.kind(group) != "group":
            return False
        member = next((member for member in self.members(group) if member.name == name), None)
        if member is None:
            return False
        config = self._config_of(member, group)
        self._member_configs[name] = config
        self._task_index[name] = {"type": "python_task" if "class" in config else "task", "yaml_path": -1}
        self._all_tasks = sorted(self._task_index)
        return True

    def members(self, group: str) -> list[Member]:
        """The tasks of a group.

        Raises:
            TaskFailure: the group names what is not there, or itself.
        """
        index = GroupIndex(kind=self.kind, group=self._get_config, tag=self._get_tasklist)
        try:
            return list(group_members(group, index))
        except (GroupCycleError, UnknownMemberError) as error:
            raise TaskFailure("bad_request", f"group {group!r} cannot be expanded: {error}") from error

    def holds(self, group: str, defined_elsewhere: Callable[[str], bool]) -> bool:
        """Whether all that a group names is in this index; no for a tag, whose tasks may lie in any folder."""

        def no_tag(name: str) -> list[str]:
            raise UnknownMemberError(group, name)

        try:
            members = list(group_members(group, GroupIndex(kind=self.kind, group=self._get_config, tag=no_tag)))
        except (GroupCycleError, UnknownMemberError):
            return False
        return all(self.kind(member.base) == "task" or not defined_elsewhere(member.base) for member in members)

    def kind(self, name: str) -> Kind | None:
        """What a name stands for in this index."""
        return _KINDS[self.task_index[name]["type"]] if name in self.task_index else None

    def _config_of(self, member: Member, group: str) -> dict[str, Any]:
        folder = str(Path(self._get_yaml_path(group)).parent)
        changes = load_yaml_config(yaml_config=dict(member.overrides), yaml_dir=folder)
        base = self._get_config(member.base) if self.kind(member.base) == "task" else {}
        return {**base, **changes, "task": member.name}

    def _get_config(self, name: str) -> dict[str, Any]:
        if name in self._member_configs:
            return dict(self._member_configs[name])
        config: dict[str, Any] = super()._get_config(name)
        return config
