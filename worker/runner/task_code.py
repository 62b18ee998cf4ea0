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

_JUDGE = re.compile(r"judge|openai|anthropic|get_chat_response|requests\.post", re.IGNORECASE)
_WRITES = re.compile(r"\bopen\(|submission|json\.dump|to_csv|to_json|\bargs\b")
_TIMES_100 = re.compile(r"\*\s*100(?:\.0*)?\b|\b100(?:\.0*)?\s*\*")
_MOST_FUNCTIONS = 200


def scoring_may_call_judge(task: Any) -> bool:
    """Whether anything in the file that scores the task's documents speaks of a judge."""
    function = getattr(task.config, "process_results", None)
    file = inspect.getsourcefile(inspect.unwrap(function)) if callable(function) else None
    return bool(file and _JUDGE.search(Path(file).read_text(encoding="utf-8", errors="replace")))


def aggregation_may_call_judge(function: Callable[..., Any]) -> bool:
    """Whether an aggregation, or what it calls in its own folder, speaks of a judge."""
    return any(_JUDGE.search(source) for source in _sources(function))


def may_write_files(function: Callable[..., Any]) -> bool:
    """Whether an aggregation, or what it calls in its own folder, seems to write files."""
    return any(_WRITES.search(source) for source in _sources(function))


def multiplies_by_100(function: Callable[..., Any]) -> bool:
    """Whether an aggregation itself multiplies by 100, as those that give percentages do."""
    return _TIMES_100.search(_source(_plain(function))) is not None


def _sources(function: Callable[..., Any]) -> Iterator[str]:
    """The source of a function and of the functions it names, as far as they lie in its folder."""
    start = _plain(function)
    folder = _folder(start)
    seen: set[Any] = set()
    waiting = [start]
    while waiting and len(seen) < _MOST_FUNCTIONS:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        yield _source(current)
        if isinstance(current, types.FunctionType) and folder is not None:
            named = (current.__globals__.get(name) for name in current.__code__.co_names)
            waiting += [own for own in map(_plain, named) if _folder(own) == folder]


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
