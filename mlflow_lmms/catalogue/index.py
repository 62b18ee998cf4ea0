"""All that can be asked for by name, and how names expand to tasks. Values alone; reading them is `build`'s."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_lmms.catalogue.group_definitions import define_groups
from mlflow_lmms.catalogue.task import CatalogueGroup, CatalogueTask
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.reading.group_members import (
    GroupCycleError,
    GroupIndex,
    Kind,
    Member,
    UnknownMemberError,
    group_members,
)
from mlflow_lmms.reading.group_scores import GroupDefinition

_SHOWN = 3


@dataclass
class Catalogue:
    """All that can be asked for by name. `complete` is false where lmms-eval is not installed beside the server."""

    tasks: dict[str, CatalogueTask] = field(default_factory=dict)
    #: Group → the names in its list, those of groups written inside it among them.
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    group_files: dict[str, CatalogueGroup] = field(default_factory=dict)
    complete: bool = True
    #: Names of lmms-eval's that a file of one's own has taken → lmms-eval's file.
    replaced: dict[str, Path] = field(default_factory=dict)

    def expand(self, names: Iterable[str]) -> list[str]:
        """The leaf tasks behind tasks, groups and tags, in order, each once.

        Raises:
            InvalidRequestError: a name that is in none of them, with the nearest that are.
        """
        found: dict[str, None] = {}
        for name in names:
            for task in self._leaves(name):
                found.setdefault(task)
        return list(found)

    def members(self, group: str) -> Iterator[Member]:
        """The tasks of a group with what it changes in them.

        Raises:
            InvalidRequestError: the group cannot be expanded.
        """
        try:
            yield from group_members(group, self.group_index())
        except GroupCycleError as error:
            raise InvalidRequestError(f"group {group!r} contains itself, by way of {error}") from None
        except UnknownMemberError as error:
            raise InvalidRequestError(f"{error}: ask for other tasks of it") from None

    def group_definitions(self, names: Iterable[str]) -> tuple[GroupDefinition, ...]:
        """What it takes to compute the scores of the groups among `names`, and of the groups within them.

        Raises:
            InvalidRequestError: a group that cannot be expanded.
        """
        found: dict[str, GroupDefinition] = {}
        for name in names:
            if name in self.group_files:
                for definition in define_groups(self, name):
                    found.setdefault(definition.name, definition)
        return tuple(found.values())

    def memberships(self, task: str) -> list[str]:
        """The groups and tags that have this task in their list."""
        return [
            *(name for name, members in self.groups.items() if task in members),
            *(name for name, members in self.tags.items() if task in members and name not in self.groups),
        ]

    def search(self, text: str = "") -> list[CatalogueTask]:
        """Tasks that hold all words of `text` (name, data set, tags, modality, category …); one's own first."""
        words = text.lower().split()
        hits = [task for task in self.tasks.values() if not words or _holds(task.text(), words)]
        return sorted(hits, key=lambda task: (not task.own, task.name))

    def known_trouble(self, names: Iterable[str]) -> list[str]:
        """What is known to go wrong with these tasks, each trouble once with the tasks that have it."""
        troubled: dict[str, list[str]] = {}
        for name in names:
            for trouble in self.tasks[name].trouble[:1] if name in self.tasks else ():
                troubled.setdefault(trouble, []).append(name)
        return [f"{_named(tasks)}: {trouble}" for trouble, tasks in troubled.items()]

    def near(self, name: str) -> list[str]:
        """Known names that look like this one."""
        known = {known.lower(): known for known in (*self.tasks, *self.groups, *self.tags)}
        return [known[match] for match in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)]

    def kind(self, name: str) -> Kind | None:
        """What a name stands for; a group wins over a task of its name."""
        if name in self.group_files:
            return "group"
        if name in self.tasks:
            return "task"
        return "tag" if name in self.tags else None

    def group_index(self) -> GroupIndex:
        """What an expansion of groups asks about names."""
        return GroupIndex(
            kind=self.kind,
            group=lambda name: self.group_files[name].config,
            tag=lambda name: self.tags[name],
            lenient=not self.complete,
        )

    def _leaves(self, name: str) -> Iterator[str]:
        kind = self.kind(name)
        if kind == "group":
            yield from (member.name for member in self.members(name))
        elif kind == "tag":
            yield from self.tags[name]
        elif kind == "task" or not self.complete:
            yield name
        else:
            near = self.near(name)
            hint = (
                f"; did you mean {', '.join(near)}?"
                if near
                else "; the page *New evaluation* and `mlflow-lmms catalog` search all"
            )
            raise InvalidRequestError(f"lmms-eval has no task, group or tag {name!r}{hint}")


def _named(tasks: Sequence[str]) -> str:
    more = len(tasks) - _SHOWN
    return ", ".join(tasks[:_SHOWN]) + (f" and {more} more tasks" if more > 0 else "")


def _holds(text: str, words: Sequence[str]) -> bool:
    return all(word in text for word in words)
