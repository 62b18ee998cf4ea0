"""What a task's own functions may do beside computing, told from their source: call a judge, write files.

Owns the signs that are looked for. They err on the side of caution: a function that is suspected wrongly is only not
called a second time. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# MMMU and its kin call the verdicts of their own rules `judge_dict`.
_JUDGE = re.compile(r"judge(?!_dict)|openai|anthropic|get_chat_response|requests\.post", re.IGNORECASE)
_WRITES = re.compile(r"\bopen\(|submission|json\.dump|to_csv|to_json|\bargs\b")
_TIMES_100 = re.compile(r"\*\s*100(?:\.0*)?\b|\b100(?:\.0*)?\s*\*")
_MOST_FUNCTIONS = 500
_EVERYTHING = "too much to look through: it may call a judge and open(files)"


def may_call_judge(task: Any) -> bool:
    """Whether the task's scoring or an aggregation of it may call a judge."""
    return scoring_may_call_judge(task) or any(map(aggregation_may_call_judge, task.aggregation().values()))


def scoring_may_call_judge(task: Any) -> bool:
    """Whether what scores the task's documents may call a judge."""
    own = getattr(task.config, "process_results", None)
    scoring = own if callable(own) else inspect.unwrap(type(task).process_results)
    return not scoring.__module__.startswith("lmms_eval.api.") and aggregation_may_call_judge(scoring)


def aggregation_may_call_judge(function: Callable[..., Any]) -> bool:
    """Whether a function, or anything that it reaches in its folder and in lmms-eval, speaks of a judge."""
    return any(_JUDGE.search(text) for text in _reached(function))


def may_write_files(function: Callable[..., Any]) -> bool:
    """Whether a function, or anything that it reaches in its folder and in lmms-eval, seems to write files."""
    return any(_WRITES.search(text) for text in _reached(function))


def multiplies_by_100(function: Callable[..., Any]) -> bool:
    """Whether an aggregation itself multiplies by 100, as those that give percentages do."""
    return _TIMES_100.search(_source(_plain(function))) is not None


def _reached(function: Callable[..., Any]) -> Iterator[str]:
    """What a function reaches by name: sources of functions and classes, and the types of objects.

    Functions of other packages are told by their names alone.
    """
    start = _plain(function)
    folder = _folder(start)
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        if len(seen) == _MOST_FUNCTIONS:
            yield _EVERYTHING
            return
        seen.add(id(current))
        if not isinstance(current, types.FunctionType | type):
            yield f"{type(current).__module__}.{type(current).__qualname__}"
        elif current is start or _folder(current) == folder or current.__module__.startswith("lmms_eval."):
            yield _source(current)
            waiting += map(_plain, _named(current))
        else:
            yield f"{current.__module__}.{current.__qualname__}"


def _named(function: types.FunctionType | type) -> Iterator[Any]:
    """The global objects that a function names, those of modules that it names included."""
    if isinstance(function, type):
        return
    names = set(_names(function.__code__))
    spaces = [function.__globals__]
    spaces += [vars(own) for name in names if isinstance(own := function.__globals__.get(name), types.ModuleType)]
    for space in spaces:
        yield from (space[name] for name in names if name in space and not isinstance(space[name], types.ModuleType))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def _plain(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function) if callable(function) else function


def _folder(function: Any) -> Path | None:
    if not isinstance(function, types.FunctionType | type):
        return None
    try:
        return Path(inspect.getfile(function)).parent
    except (OSError, TypeError):
        return None


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""
