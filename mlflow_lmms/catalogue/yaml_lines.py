"""One YAML file with the line of each key, and what keeps it from being a task file at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlflow_lmms.catalogue.problems import Problem
from mlflow_lmms.catalogue.yaml_walk import load_yaml

KeyPath = tuple[str | int, ...]
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class YamlDocument:
    """The content of one file, unmerged; `lines` says where each key or list item begins."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, *keys: str | int) -> int:
        """The line of a key, or of the nearest thing around it."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.lines:
                return self.lines[keys[:length]]
        return 1


def read_document(path: Path) -> YamlDocument:
    """Read one file; what is wrong with it as YAML is in its problems."""
    document = YamlDocument(path)
    try:
        text = path.read_text(encoding="utf-8")
        config = load_yaml(text)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        came = " ".join(part for part in (error.context, error.problem) if part)
        _add(document, line, "YAML", came, "correct the line; a text with `: ` or a leading symbol needs quotes")
        return document
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        _add(document, 1, "a readable YAML file in UTF-8", str(error), "save it as UTF-8 text")
        return document
    if not isinstance(config, dict):
        came = "an empty file" if config is None else f"a {type(config).__name__}"
        _add(document, 1, "a mapping of keys to values", came, "start with `task: NAME`, or remove the file")
        return document
    document.config = config
    if node is not None:
        _walk(document, node, ())
    return document


def _walk(document: YamlDocument, node: yaml.Node, above: KeyPath) -> None:
    for key, line, child in _children(node):
        path = (*above, key)
        if path in document.lines and isinstance(key, str):
            came = f"{key!r} again, first in line {document.lines[path]}"
            _add(document, line, "each key once", came, "remove one of them: the last one counts")
        document.lines[path] = line
        _walk(document, child, path)


def _children(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            yield at, item.start_mark.line + 1, item


def _add(document: YamlDocument, line: int, expected: str, came: str, remedy: str) -> None:
    document.problems.append(Problem(document.path, line, "error", expected, came, remedy))
