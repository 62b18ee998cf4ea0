"""Finds and reads lmms-eval's task files: YAML with `!function` kept as text and `include`s merged.

Nothing is imported but PyYAML, nothing is downloaded. Must not know what the keys mean, but for `include` and `task`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LEFT_OUT = frozenset({"__pycache__", ".ipynb_checkpoints"})
FUNCTION = "!function "
_TEXT_TAG = "tag:yaml.org,2002:str"
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_SIZE_LIMIT = 2_000_000
_DEPTH_LIMIT = 200
_FEW_ALIASES = 20
_INLINE_NESTING = re.compile(r"(?:[-?:][ \t]+){100}")
_BRACKETS = re.compile(r"[\[\]{}]")
_ALIAS = re.compile(r"(?:^|[\s,\[{:-])\*\w+")


class _TaskLoader(_Loader):  # type: ignore[misc]
    """Reads ``!function module.name`` as that text instead of importing it."""


_TaskLoader.add_constructor("!function", lambda loader, node: f"{FUNCTION}{loader.construct_scalar(node)}")


class TaskFile(NamedTuple):
    """One YAML file with its `include`s merged in, and where each function that it names is looked for."""

    path: Path
    config: dict[str, Any]
    #: For a key from another folder's template: the file that wrote it, as its functions lie beside that one.
    origins: dict[str, Path]

    def function(self, key: str) -> FunctionReference | None:
        """The function that the value of `key` names, if it names one."""
        return function_reference(self.config.get(key), self.origins.get(key, self.path))


class FunctionReference(NamedTuple):
    """`!function module.name`, as lmms-eval resolves it: beside the YAML file first, then as an import."""

    module: str
    name: str
    folder: str

    @property
    def file(self) -> str:
        """Where the module lies if it is beside the YAML file."""
        return os.path.normpath(f"{self.folder}/{self.module}.py")


def function_reference(value: Any, yaml_path: Path) -> FunctionReference | None:
    """Read a value of a YAML file; None where it is no function."""
    if not isinstance(value, str) or not value.startswith(FUNCTION):
        return None
    module, _, name = value[len(FUNCTION) :].strip().rpartition(".")
    return FunctionReference(module, name, os.path.dirname(yaml_path))  # noqa: PTH120 (speed)


def installed_tasks_folder() -> Path | None:
    """The tasks folder of the installed lmms-eval, found without importing it; None where it is not installed."""
    spec = find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def load_yaml(text: str) -> Any:
    """Parse the text of a task file.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: the text is no such file.
    """
    refuse_hostile(text)
    if "&" in text or "<<" in text:
        config = yaml.load(text, Loader=_TaskLoader)  # noqa: S506 (a safe loader's subclass)
        _refuse_circles(config, ())
        return config
    node = yaml.compose(text, Loader=_TaskLoader)
    return None if node is None else _value_of(node)


def refuse_hostile(text: str) -> None:
    """Refuse what would take the parser's stack or our memory: it is C code, which ends the process.

    Raises:
        ValueError: deep nesting, or anchors that a task file has no use for.
    """
    if len(text) > _SIZE_LIMIT:
        raise ValueError(f"more than {_SIZE_LIMIT:,} characters")
    if _INLINE_NESTING.search(text) is not None or _flow_depth(text) > _DEPTH_LIMIT:
        raise ValueError(f"nested deeper than {_DEPTH_LIMIT} levels")
    if text.count("*") > _FEW_ALIASES and len(_ALIAS.findall(text)) > _FEW_ALIASES:
        raise ValueError(f"more than {_FEW_ALIASES} aliases (*name)")


def _value_of(node: yaml.Node) -> Any:
    """As PyYAML's own constructor does for a file without anchors, at a third of the time: there are 2,000 files."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(_value_of(key), _value_of(value)) for key, value in node.value]
        try:
            return dict(pairs)
        except TypeError:
            raise yaml.constructor.ConstructorError(
                "while reading a mapping", node.start_mark, "found a key that is no text or number", node.start_mark
            ) from None
    if isinstance(node, yaml.SequenceNode):
        return [_value_of(item) for item in node.value]
    if node.tag == _TEXT_TAG:
        return node.value
    if node.tag == "!function":
        return f"{FUNCTION}{node.value}"
    return _CONSTRUCTOR.construct_object(node)


def _refuse_circles(value: Any, inside: tuple[int, ...]) -> None:
    if id(value) in inside:
        raise ValueError("an alias (*name) inside of what it stands for")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _refuse_circles(part, (*inside, id(value)))


def _flow_depth(text: str) -> int:
    if text.count("[") + text.count("{") <= _DEPTH_LIMIT:
        return 0
    depth = deepest = 0
    for sign in _BRACKETS.findall(text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def task_file_paths(folder: Path) -> Iterator[Path]:
    """All YAML files below `folder`, as lmms-eval looks for them, in order of their paths."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [os.path.join(root, name) for name in files if name.endswith(".yaml")]  # noqa: PTH118 (2,000 of them)
    yield from map(Path, sorted(found))


class TaskFiles:
    """Reads task files, each template once."""

    def __init__(self) -> None:
        self._templates: dict[Path, TaskFile] = {}

    def below(self, folder: Path) -> Iterator[TaskFile]:
        """Every readable task and group file below `folder`; others are `catalog check`'s business."""
        for path in task_file_paths(folder):
            found = self.read(path)
            if found.config:
                yield found

    def read(self, path: Path, including: tuple[Path, ...] = ()) -> TaskFile:
        """One file; without content when it cannot be read or is no mapping."""
        try:
            config = load_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return TaskFile(path, {}, {})
        if not isinstance(config, dict):
            return TaskFile(path, {}, {})
        return self._merged(path, config, including)

    def merge(self, path: Path, config: dict[str, Any]) -> TaskFile:
        """A mapping written inside the file `path`, with its `include`s."""
        return self._merged(path, dict(config), ())

    def _merged(self, path: Path, config: dict[str, Any], including: tuple[Path, ...]) -> TaskFile:
        includes = listed(config.pop("include", None))
        if not includes:
            return TaskFile(path, config, {})
        merged: dict[str, Any] = {}
        origins: dict[str, Path] = {}
        # lmms-eval reads the last one first, so that the first one wins.
        for include in reversed(includes):
            target = path.parent / include
            if target in including:
                continue
            template = self._template(target, (*including, path))
            merged.update(template.config)
            origins |= {key: template.origins.get(key, target) for key in template.config}
        origins = {key: origin for key, origin in origins.items() if key not in config}
        return TaskFile(path, {**merged, **config}, origins)

    def _template(self, path: Path, including: tuple[Path, ...]) -> TaskFile:
        found = self._templates.get(path)
        if found is None:
            found = self._templates[path] = self.read(path, including)
        return found


def listed(value: Any) -> tuple[str, ...]:
    """One text or a list of them, as a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
