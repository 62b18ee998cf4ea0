"""Checks a folder of one's own benchmark as lmms-eval will read it, without running any of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow_lmms.catalogue.build import read_catalogue
from mlflow_lmms.catalogue.check_data import check_data
from mlflow_lmms.catalogue.check_functions import FunctionChecker
from mlflow_lmms.catalogue.check_group import Inline, check_group
from mlflow_lmms.catalogue.check_task import check_task
from mlflow_lmms.catalogue.merged_document import Documents, MergedDocument
from mlflow_lmms.catalogue.problems import Problem
from mlflow_lmms.catalogue.yaml_walk import installed_tasks_folder, task_file_paths
from mlflow_lmms.errors import InvalidRequestError


@dataclass(frozen=True)
class FolderReport:
    """What was found, by file and line."""

    tasks: tuple[str, ...]
    groups: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings are no wrongs."""
        return not any(problem.severity == "error" for problem in self.problems)


def check_folder(folder: Path) -> FolderReport:
    """Look at every task and group file below `folder`.

    Raises:
        InvalidRequestError: there is no such folder.
    """
    if not folder.is_dir():
        raise InvalidRequestError(f"{folder} is not a folder: name the one that holds your task files")
    return _FolderCheck(folder.resolve()).run()


class _FolderCheck:
    """One look at one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._catalogue = read_catalogue([folder])
        installed = installed_tasks_folder()
        self._is_lmms_evals = installed is not None and folder.is_relative_to(installed.resolve())
        self._documents = Documents()
        self._functions = FunctionChecker()
        self._problems: list[Problem] = []
        self._defined: dict[str, tuple[Path, int]] = {}
        self._tasks: list[str] = []
        self._groups: list[str] = []
        self._pending: list[MergedDocument] = []

    def run(self) -> FolderReport:
        paths = list(task_file_paths(self._folder))
        for path in paths:
            self._check(path)
        for merged in self._pending:
            if merged.path.resolve() not in self._documents.included:
                came = "neither a task nor a group, and no file includes it"
                merged.report([], "`task: NAME`", came, "name the task, or include the file, or remove it", warn=True)
            self._take(merged)
        if not paths:
            came = "none"
            problem = Problem(
                self._folder, 1, "error", "task files (*.yaml)", came, "name the folder that holds them"
            )
            self._problems.append(problem)
        problems = sorted(dict.fromkeys(self._problems), key=lambda p: (str(p.file), p.line, p.severity, p.expected))
        return FolderReport(tuple(self._tasks), tuple(self._groups), tuple(problems))

    def _check(self, path: Path) -> None:
        merged = self._documents.merged(path)
        self._problems += merged.document.problems
        if not merged.config:
            return
        task = merged.config.get("task")
        if isinstance(task, list):
            self._groups.append(str(merged.config.get("group")))
            self._define(merged, "group")
            check_group(merged, self._catalogue, lambda inline: self._check_inline(merged, inline))
            self._functions.check(merged)
        elif isinstance(task, str) and task:
            self._tasks.append(task)
            self._define(merged, "task")
            self._check_task(merged)
        elif task is not None:
            merged.report(["task"], "a name, or a list of tasks", repr(task), "name the task")
        else:
            self._pending.append(merged)
            return
        self._take(merged)

    def _check_task(self, merged: MergedDocument) -> None:
        check_task(merged)
        self._functions.check(merged)
        check_data(merged)

    def _check_inline(self, outer: MergedDocument, inline: Inline) -> None:
        keys, config = inline
        merged = self._documents.inline(outer, keys, config)
        self._tasks.append(f"{config['task']}@{outer.config['group']}")
        check_task(merged)
        check_data(merged)  # its functions are looked at with the group's
        outer.problems += merged.problems

    def _define(self, merged: MergedDocument, kind: str) -> None:
        name = str(merged.config.get(kind))
        line = merged.writer(kind).line(kind)
        if name in self._defined:
            path, first = self._defined[name]
            came = f"{name!r} again, first in {path.relative_to(self._folder)}:{first}"
            merged.report([kind], "each name once", came, "rename one: only one of them is found")
        elif name in self._catalogue.replaced and not self._is_lmms_evals:
            remedy = "give yours another name; with this one it takes the other's place for everybody"
            merged.report([kind], "a name that lmms-eval does not have", repr(name), remedy)
        if any(sign in name for sign in ",@ ") or name != name.strip():
            merged.report([kind], "a name without comma, space or @", repr(name), "rename it")
        self._defined.setdefault(name, (merged.path, line))

    def _take(self, merged: MergedDocument) -> None:
        self._problems += merged.problems
