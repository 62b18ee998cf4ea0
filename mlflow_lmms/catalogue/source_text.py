"""The Python code beside task files, as text: which definition stands where, and what it calls.

Cut out by its indentation instead of parsed, because lmms-eval holds 6 MB of it and a catalogue must be there in a
second; paths are plain text here for the same reason. Never imports or runs any of it.
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
_DYNAMIC = re.compile(r"globals\(\)|\bsetattr\(|__getattr__|^[ \t]+(?:from|import)[ ].*\bimport\b", re.MULTILINE)
_DEPTH = 3
_HOPS = 3
_LONG = 2_000


class Definition(NamedTuple):
    """One top-level function, class or assignment."""

    name: str
    text: str
    file: str


class _Module(NamedTuple):
    text: str
    definitions: dict[str, tuple[int, int]]
    imports: dict[str, tuple[str, str]]
    #: Modules of `from module import *`.
    everything_of: tuple[str, ...]


class SourceTexts:
    """Finds definitions; each file is read and cut once."""

    def __init__(self, packages: Path | None) -> None:
        """`packages` is the folder that holds the package lmms_eval, for imports from it."""
        self._packages = None if packages is None else str(packages)
        self._modules: dict[str, _Module | None] = {}
        self._definitions: dict[FunctionReference, Definition | None] = {}
        self._uses: dict[tuple[str, str], tuple[Definition, ...]] = {}
        self._closures: dict[tuple[str, str], tuple[Definition, ...]] = {}
        self._folders: dict[str, tuple[str, ...]] = {}

    def file_of(self, reference: FunctionReference) -> str | None:
        """The file that the reference's module is, beside the YAML file or within lmms-eval."""
        if self._module(reference.file) is not None:
            return reference.file
        return self._imported_file(reference.module, reference.file)

    def definition(self, reference: FunctionReference) -> Definition | None:
        """What the reference names, followed through imports; None where it is not found."""
        if reference not in self._definitions:
            file = self.file_of(reference)
            self._definitions[reference] = None if file is None else self._find(file, reference.name, _HOPS)
        return self._definitions[reference]

    def surely_lacks(self, reference: FunctionReference) -> bool:
        """Whether the reference's module is there, and neither it nor its imports can define the name."""
        file = self.file_of(reference)
        module = None if file is None else self._module(file)
        if file is None or module is None or self.definition(reference) is not None:
            return False
        if reference.name in module.imports or _DYNAMIC.search(module.text) is not None:
            return False
        if re.search(rf"\b{re.escape(reference.name)}\b", module.text) is not None:
            return False
        return all(source.startswith((".", "lmms_eval.")) for source in module.everything_of)

    def closure(self, reference: FunctionReference) -> tuple[Definition, ...]:
        """The definition with those that it uses, nearest first; empty where it is not found."""
        first = self.definition(reference)
        if first is None:
            return ()
        key = (first.file, first.name)
        if key not in self._closures:
            self._closures[key] = tuple(self._reach(first))
        return self._closures[key]

    def beside(self, folder: str) -> Iterator[str]:
        """The texts of the Python files in one folder."""
        if folder not in self._folders:
            try:
                names = sorted(name for name in os.listdir(folder) if name.endswith(".py"))  # noqa: PTH208 (speed)
            except OSError:
                names = []
            self._folders[folder] = tuple(f"{folder}/{name}" for name in names)
        for file in self._folders[folder]:
            if (module := self._module(file)) is not None:
                yield module.text

    def _reach(self, first: Definition) -> Iterator[Definition]:
        seen = {(first.file, first.name)}
        layer = [first]
        for _ in range(_DEPTH):
            yield from layer
            following = []
            for definition in layer:
                for used in self._used_by(definition):
                    if (used.file, used.name) not in seen:
                        seen.add((used.file, used.name))
                        following.append(used)
            layer = following
        yield from layer

    def _used_by(self, definition: Definition) -> tuple[Definition, ...]:
        key = (definition.file, definition.name)
        if key not in self._uses:
            module = self._module(definition.file)
            # A long assignment is a table or a prompt, whose words are no calls.
            is_data = len(definition.text) > _LONG and not definition.text.startswith(("def ", "class ", "async "))
            words = {} if module is None or is_data else dict.fromkeys(_WORD.findall(definition.text))
            found = (
                self._find(definition.file, word, _HOPS)
                for word in words
                if module is not None and (word in module.definitions or word in module.imports)
            )
            self._uses[key] = tuple(used for used in found if used is not None)
        return self._uses[key]

    def _find(self, file: str, name: str, hops: int) -> Definition | None:
        module = self._module(file)
        if module is None:
            return None
        if name in module.definitions:
            start, end = module.definitions[name]
            return Definition(name, module.text[start:end], file)
        sources: list[tuple[str, str]] = []
        if name in module.imports:
            sources = [module.imports[name]]
        elif module.everything_of:
            sources = [(source, name) for source in module.everything_of]
        for source, original in sources if hops else ():
            target = self._imported_file(source, file)
            found = None if target is None else self._find(target, original, hops - 1)
            if found is not None:
                return found
        return None

    def _imported_file(self, module: str, importer: str) -> str | None:
        path = module.lstrip(".").replace(".", "/")
        folder = os.path.dirname(importer)  # noqa: PTH120 (speed)
        if module.startswith("."):
            for _ in range(len(module) - len(module.lstrip(".")) - 1):
                folder = os.path.dirname(folder)  # noqa: PTH120
            candidates = [f"{folder}/{path}.py"]
        elif module.partition(".")[0] == "lmms_eval" and self._packages is not None:
            candidates = [f"{self._packages}/{path}.py", f"{self._packages}/{path}/__init__.py"]
        else:
            candidates = [f"{folder}/{path}.py"]
        return next((file for file in candidates if self._module(file) is not None), None)

    def _module(self, file: str) -> _Module | None:
        if file not in self._modules:
            try:
                with open(file, encoding="utf-8", errors="replace") as source:  # noqa: PTH123 (speed)
                    self._modules[file] = _cut(source.read())
            except OSError:
                self._modules[file] = None
        return self._modules[file]


def _cut(text: str) -> _Module:
    marks = [(match.start(), match) for match in _TOP.finditer(text)]
    ends = [*(start for start, _ in marks[1:]), len(text)][: len(marks)]
    definitions: dict[str, tuple[int, int]] = {}
    imports: dict[str, tuple[str, str]] = {}
    everything_of = []
    for (start, match), end in zip(marks, ends, strict=True):
        name = match["defined"] or match["assigned"]
        if name:
            definitions[name] = (start, end)
        elif match["module"] and match["names"].strip() == "*":
            everything_of.append(match["module"])
        elif match["module"]:
            for part in match["names"].strip("()").split(","):
                original, _, alias = part.strip().partition(" as ")
                imports[(alias or original).strip()] = (match["module"], original.strip())
    return _Module(text, definitions, imports, tuple(everything_of))
