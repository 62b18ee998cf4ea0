"""A task file with its templates merged in, keeping for each key the file and line that wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_lmms.catalogue.problems import Problem, Severity
from mlflow_lmms.catalogue.yaml_lines import YamlDocument, read_document
from mlflow_lmms.catalogue.yaml_walk import listed


@dataclass
class MergedDocument:
    """What lmms-eval would see, and where each part of it stands."""

    document: YamlDocument
    config: dict[str, Any] = field(default_factory=dict)
    writers: dict[str, YamlDocument] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    #: For a task inside a group's list: the keys that lead to it.
    inside: tuple[str | int, ...] = ()

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.document.path

    def writer(self, key: str | int) -> YamlDocument:
        """The file that wrote a top-level key."""
        return self.writers.get(str(key), self.document)

    def report(self, keys: Iterable[str | int], expected: str, came: str, remedy: str, *, warn: bool = False) -> None:
        """Note a problem at a key."""
        path = tuple(keys)
        writer = self.writer(path[0]) if path else self.document
        inside = self.inside if writer is self.document else ()
        severity: Severity = "warning" if warn else "error"
        problem = Problem(writer.path, writer.line(*inside, *path), severity, expected, came, remedy)
        if problem not in self.problems:
            self.problems.append(problem)


class Documents:
    """Reads and merges files, each once."""

    def __init__(self) -> None:
        self.read: dict[Path, YamlDocument] = {}
        #: Files that another one includes.
        self.included: set[Path] = set()

    def one(self, path: Path) -> YamlDocument:
        """The file by itself."""
        if path not in self.read:
            self.read[path] = read_document(path)
        return self.read[path]

    def merged(self, path: Path) -> MergedDocument:
        """The file with its includes."""
        document = self.one(path)
        merged = MergedDocument(document)
        self._merge(merged, document.config, ())
        return merged

    def inline(self, outer: MergedDocument, keys: tuple[str | int, ...], config: Mapping[str, Any]) -> MergedDocument:
        """A task written inside a group's list."""
        merged = MergedDocument(outer.document, inside=keys)
        self._merge(merged, config, ())
        return merged

    def _merge(self, merged: MergedDocument, config: Mapping[str, Any], way: tuple[Path, ...]) -> None:
        here = way[-1] if way else merged.path
        for include in reversed(listed(config.get("include"))):
            target = (here.parent / include).resolve()
            if target in (merged.path.resolve(), *way):
                merged.report(["include"], "includes that end", f"{include!r} includes itself", "remove one of them")
                continue
            if not target.is_file():
                merged.report(
                    ["include"], "a file to include", f"no {include!r} beside {here.name}", "correct the name"
                )
                continue
            self.included.add(target)
            template = self.one(target)
            merged.problems += [problem for problem in template.problems if problem not in merged.problems]
            self._merge(merged, template.config, (*way, target))
        writer = self.one(here) if way else merged.document
        for key, value in config.items():
            if key != "include":
                merged.config[key] = value
                merged.writers[str(key)] = writer
