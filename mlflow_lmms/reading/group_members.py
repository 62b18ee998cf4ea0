"""The tasks behind a group file of lmms-eval, with the settings that the group gives them.

Pure; shared by the catalogue, which expands groups, and the runner, which loads what they expand to. Follows
lmms-eval 0.7.3: a group's own settings reach its members, except those of a group written inside its list. A task
that a group changes, or that only a group's list defines, gets a name of its own, `task@group`: its results are
not those of the plain task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["task", "group", "tag"]

_GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})
_SHOWN_ONLY = frozenset({"task_alias", "group_alias"})
SEPARATOR = "@"


@dataclass(frozen=True)
class Member:
    """One task of a group: the name that it runs under, the task that it starts from, and what the group changes."""

    name: str
    base: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    #: The groups within the expanded one that it came through, outermost first.
    way: tuple[str, ...] = ()


class GroupCycleError(ValueError):
    """A group contains itself; the message is the way, as names."""


class UnknownMemberError(ValueError):
    """A group names what is neither task, group nor tag, and says too little to be a task; with both names."""

    def __init__(self, group: str, member: str) -> None:
        super().__init__(f"group {group!r} names {member!r}, which is no task, group or tag")
        self.group = group
        self.member = member


@dataclass(frozen=True)
class GroupIndex:
    """What the expansion asks about names. `group` returns a group file's content, `tag` the tasks of a tag."""

    kind: Callable[[str], Kind | None]
    group: Callable[[str], Mapping[str, Any]]
    tag: Callable[[str], Sequence[str]]
    #: Where not all tasks are known: take a name that is in nothing for a task.
    lenient: bool = False


def group_members(name: str, index: GroupIndex, inside: tuple[str, ...] = ()) -> Iterator[Member]:
    """The tasks of the group `name`, in order; a task that stands in it twice comes twice.

    Raises:
        GroupCycleError, UnknownMemberError: the group cannot be expanded.
    """
    if name in inside:
        raise GroupCycleError(" → ".join(inside))
    yield from _Expansion(name, index, (*inside, name)).of(index.group(name), {})


class _Expansion:
    """The walk through one group file; counts how often a changed task comes, for its name."""

    def __init__(self, group: str, index: GroupIndex, inside: tuple[str, ...]) -> None:
        self._group = group
        self._index = index
        self._inside = inside
        self._seen: dict[str, int] = {}
        self._way: tuple[str, ...] = ()

    def of(self, config: Mapping[str, Any], outer: Mapping[str, Any]) -> Iterator[Member]:
        settings = {key: value for key, value in {**config, **outer}.items() if key not in _GROUP_KEYS}
        for item in config.get("task") or ():
            if isinstance(item, str):
                yield from self._named(item, settings)
            elif isinstance(item, Mapping):
                yield from self._written(item, settings)

    def _written(self, item: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Member]:
        task = item.get("task")
        if isinstance(task, str):
            own = {key: value for key, value in item.items() if key != "task"}
            if self._index.kind(task) is None and ("dataset_path" in own or "include" in own or "class" in own):
                yield self._member(task, {**own, **settings})
            else:
                yield from self._named(task, {**own, **settings})
        elif isinstance(task, list):
            yield from self._through(str(item.get("group") or ""), self.of(item, {}))

    def _through(self, group: str, members: Iterator[Member]) -> Iterator[Member]:
        outside, self._way = self._way, (*self._way, group) if group else self._way
        yield from members
        self._way = outside

    def _named(self, name: str, settings: Mapping[str, Any]) -> Iterator[Member]:
        kind = self._index.kind(name)
        if kind == "group" and not settings:
            for member in group_members(name, self._index, self._inside):
                yield replace(member, way=(*self._way, name, *member.way))
        elif kind == "group":
            if name in self._inside:
                raise GroupCycleError(" → ".join(self._inside))
            self._inside = (*self._inside, name)
            yield from self._through(name, self.of(self._index.group(name), settings))
            self._inside = self._inside[:-1]
        elif kind == "tag":
            for task in self._index.tag(name):
                yield self._member(task, settings)
        elif kind == "task" or self._index.lenient:
            yield self._member(name, settings)
        else:
            raise UnknownMemberError(self._group, name)

    def _member(self, task: str, settings: Mapping[str, Any]) -> Member:
        if settings.keys() <= _SHOWN_ONLY:
            return Member(task, task, way=self._way)
        again = self._seen.get(task, 0)
        self._seen[task] = again + 1
        repeated = f"{task}-{again}" if again else task
        return Member(f"{repeated}{SEPARATOR}{self._group}", task, settings, self._way)
