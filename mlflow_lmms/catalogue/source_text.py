"""The Python code beside task files, as text: which definition stands where, and what it calls.

Cut out by its indentation instead of parsed, because lmms-eval holds 6 MB of it and a catalogue must be there in a
second. Never imports or runs any of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlflow_lmms.catalogue.yaml_walk import FunctionReference

_TOP = re.compile(
    r"^(?:async[ ]+)?(?:def|class)[ ]+(?P<defined>\w+)"
    r"|^(?P<assigned>[A-Za-z_]\w*)[ ]*(?::[^=\n]+)?=(?!=)"
    r"|^from[ ]+(?P<module>[.\w]+)[ ]+import[ ]+(?P<names>\([^)]*\)|[^\n#]*)"
    r"|^(?P<other>[^\s#)\]}\"'].*)",
    re.MULTILINE,
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_DEPTH = 3


class Definition(NamedTuple):
    """One top-level function, class or assignment."""

    name: str
    text: str
    file: Path


class _Module(NamedTuple):
    text: str
    definitions: dict[str, tuple[int, int]]
    imports: dict[str, tuple[str, str]]


class SourceTexts:
    """Finds definitions; each file is read and cut once."""

    def __init__(self, packages: Path | None) -> None:
        """`packages` is the folder that holds the package lmms_eval, for imports from it."""
        self._packages = packages
        self._modules: dict[Path, _Module | None] = {}
        self._closures: dict[tuple[Path, str], tuple[Definition, ...]] = {}
        self._folders: dict[Path, tuple[Path, ...]] = {}

    def file_of(self, reference: FunctionReference) -> Path | None:
        """The file that the reference's module is, beside the YAML file or within lmms-eval."""
        if self._module(reference.file) is not None:
            return reference.file
        return self._imported_file(reference.module, reference.file)

    def definition(self, reference: FunctionReference) -> Definition | None:
        """What the reference names, followed through imports; None where it is not found."""
        file = self.file_of(reference)
        return None if file is None else self._find(file, reference.name)

    def closure(self, reference: FunctionReference) -> tuple[Definition, ...]:
        """The definition with those that it uses, nearest first; empty where it is not found."""
        first = self.definition(reference)
        if first is None:
            return ()
        key = (first.file, first.name)
        if key not in self._closures:
            self._closures[key] = tuple(self._reach(first))
        return self._closures[key]

    def beside(self, folder: Path) -> Iterator[str]:
        """The texts of the Python files in one folder."""
        if folder not in self._folders:
            self._folders[folder] = tuple(sorted(folder.glob("*.py")))
        for file in self._folders[folder]:
            module = self._module(file)
            if module is not None:
                yield module.text

    def _reach(self, first: Definition) -> Iterator[Definition]:
        seen = {(first.file, first.name)}
        layer = [first]
        for _ in range(_DEPTH):
            yield from layer
            following = []
            for definition in layer:
                module = self._module(definition.file)
                known = () if module is None else module.definitions.keys() | module.imports.keys()
                for word in sorted(known & set(_WORD.findall(definition.text))) if known else ():
                    used = self._find(definition.file, word)
                    if used is not None and (used.file, used.name) not in seen:
                        seen.add((used.file, used.name))
                        following.append(used)
            layer = following
        yield from layer

    def _find(self, file: Path, name: str, hops: int = 3) -> Definition | None:
        module = self._module(file)
        if module is None:
            return None
        if name in module.definitions:
            start, end = module.definitions[name]
            return Definition(name, module.text[start:end], file)
        if name in module.imports and hops:
            source, original = module.imports[name]
            target = self._imported_file(source, file)
            return None if target is None else self._find(target, original, hops - 1)
        return None

    def _imported_file(self, module: str, importer: Path) -> Path | None:
        if module.startswith("."):
            dots = len(module) - len(module.lstrip("."))
            base = importer.parents[dots - 1] if dots <= len(importer.parents) else importer.parent
            candidates = [base / f"{module[dots:].replace('.', '/')}.py"]
        else:
            path = module.replace(".", "/")
            candidates = [importer.parent / f"{path}.py"]
            if self._packages is not None:
                candidates += [self._packages / f"{path}.py", self._packages / path / "__init__.py"]
        return next((file for file in candidates if self._module(file) is not None), None)

    def _module(self, file: Path) -> _Module | None:
        if file not in self._modules:
            try:
                with open(os.fspath(file), encoding="utf-8", errors="replace") as source:  # noqa: PTH123 (speed)
                    self._modules[file] = _cut(source.read())
            except OSError:
                self._modules[file] = None
        return self._modules[file]


def _cut(text: str) -> _Module:
    marks = [(match.start(), match) for match in _TOP.finditer(text)]
    ends = [*(start for start, _ in marks[1:]), len(text)][: len(marks)]
    definitions: dict[str, tuple[int, int]] = {}
    imports: dict[str, tuple[str, str]] = {}
    for (start, match), end in zip(marks, ends, strict=True):
        name = match["defined"] or match["assigned"]
        if name:
            definitions[name] = (start, end)
        elif match["module"]:
            for part in match["names"].strip("()").split(","):
                original, _, alias = part.strip().partition(" as ")
                imports[(alias or original).strip()] = (match["module"], original.strip())
    return _Module(text, definitions, imports)
