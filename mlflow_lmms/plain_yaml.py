"""Reads YAML that a stranger may have written: bounded in size and depth, no aliases, no name twice in a mapping.

Aliases are what makes a few lines of YAML unfold into gigabytes; a configuration has no need of them.
"""

from __future__ import annotations

from typing import Any

import yaml

from mlflow_lmms.errors import InvalidRequestError

SIZE_LIMIT = 500_000
_DEPTH = 20
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc]
    """Refuses a mapping that has a key twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As the safe loader does, once the keys are known to differ."""
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, list | dict):
                raise yaml.MarkedYAMLError(problem="a key must be a plain value", problem_mark=key.start_mark)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name!r} stands here twice", problem_mark=key.start_mark)
            seen.add(name)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


def read_plain_yaml(text: str, where: str) -> Any:
    """The content of one YAML document.

    Args:
        where: what the text is, for messages.

    Raises:
        InvalidRequestError: what is wrong with it, and in which line.
    """
    if len(text) > SIZE_LIMIT:
        raise InvalidRequestError(f"{where} has {len(text)} characters; at most {SIZE_LIMIT} are read")
    try:
        _check_shape(text, where)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a safe loader's subclass)
    except InvalidRequestError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{where} is no YAML that can be read: {_short(error)}") from None


def _check_shape(text: str, where: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise InvalidRequestError(f"{where}, line {_line(event)}: write the value out, aliases (*) are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH:
                raise InvalidRequestError(f"{where}, line {_line(event)}: nested deeper than {_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _short(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"[:300]
    return str(error)[:300]
