"""Checks that every `!function` of a task file is there, by parsing its Python file. Runs none of it."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlflow_lmms.catalogue.merged_document import MergedDocument
from mlflow_lmms.catalogue.problems import Problem
from mlflow_lmms.catalogue.yaml_lines import KeyPath
from mlflow_lmms.catalogue.yaml_walk import FUNCTION, FunctionReference, function_reference

#: How many documents' worth of arguments lmms-eval passes; a function that takes fewer raises.
_LEAST_ARGUMENTS = {"process_results": 2, "doc_to_visual": 1, "doc_to_target": 1, "doc_to_text": 1, "process_docs": 1}


class FunctionChecker:
    """Parses each Python file once."""

    def __init__(self) -> None:
        self._trees: dict[Path, ast.Module | SyntaxError | None] = {}

    def check(self, merged: MergedDocument) -> None:
        """Report every function of a task that lmms-eval would not find."""
        for keys, value in _functions(merged.config, ()):
            reference = function_reference(value, merged.writer(keys[0]).path)
            if reference is not None:
                self._check_one(merged, keys, reference)

    def _check_one(self, merged: MergedDocument, keys: KeyPath, reference: FunctionReference) -> None:
        said = f"!function {reference.module}.{reference.name}"
        if not reference.module:
            merged.report(keys, "`!function MODULE.NAME`", said, "name the Python file, then the function")
            return
        file = Path(reference.file)
        tree = self._tree(file)
        if tree is None:
            if not _is_importable(reference.module):
                remedy = f"make {file.name} beside the file that names it, or correct the name"
                merged.report(keys, f"the file {file.name}", f"{said}, but there is no such file", remedy)
        elif isinstance(tree, SyntaxError):
            problem = Problem(
                file, tree.lineno or 1, "error", "Python", tree.msg, "correct the line: lmms-eval imports this file"
            )
            if problem not in merged.problems:
                merged.problems.append(problem)
        else:
            self._check_name(merged, keys, reference, tree)

    def _check_name(
        self, merged: MergedDocument, keys: KeyPath, reference: FunctionReference, tree: ast.Module
    ) -> None:
        names = dict(_names(tree.body))
        if "*" in names or "__getattr__" in names:
            return
        if reference.name not in names:
            near = difflib.get_close_matches(reference.name, names, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"define it there; it has {', '.join(list(names)[:5])}"
            came = f"{Path(reference.file).name} does not define {reference.name}"
            merged.report(keys, f"a function {reference.name}", came, remedy)
            return
        definition = names[reference.name]
        least = _LEAST_ARGUMENTS.get(str(keys[-1]), 0)
        if isinstance(definition, ast.FunctionDef) and (takes := _takes(definition)) < least:
            came = f"{reference.name} in line {definition.lineno} takes {takes}"
            merged.report(
                keys, f"a function of {least} arguments", came, "take (doc, results)" if least == 2 else "take doc"
            )

    def _tree(self, file: Path) -> ast.Module | SyntaxError | None:
        if file not in self._trees:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._trees[file] = ast.parse(file.read_text(encoding="utf-8"), str(file))
            except OSError:
                self._trees[file] = None
            except (SyntaxError, RecursionError, ValueError) as error:
                broken = error if isinstance(error, SyntaxError) else SyntaxError(str(error))
                self._trees[file] = broken
        return self._trees[file]


def _functions(value: Any, above: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str) and value.startswith(FUNCTION) and above:
        yield above, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _functions(item, (*above, str(key)))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _functions(item, (*above, at))


def _names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """What a module defines, branches of `if` and `try` included."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name, statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], statement) for alias in statement.names)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                yield from ((part.id, statement) for part in ast.walk(target) if isinstance(part, ast.Name))
        elif isinstance(statement, ast.Expr | ast.For) and "globals" in ast.dump(statement):
            yield "*", statement  # defines names that only running it would tell
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                yield from _names(getattr(statement, inner, []))
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _names(handler.body)


def _takes(definition: ast.FunctionDef) -> int:
    arguments = definition.args
    return 99 if arguments.vararg is not None else len(arguments.posonlyargs) + len(arguments.args)


def _is_importable(module: str) -> bool:
    """Whether the first part of a dotted name is installed; nothing is imported."""
    top = module.partition(".")[0]
    try:
        return "." in module and find_spec(top) is not None
    except (ImportError, ValueError):
        return False
