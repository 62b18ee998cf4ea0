"""The request that arrives on stdin: one JSON object, checked field by field into a `RunRequest`.

Pure. It says what was expected and what came; it never echoes model arguments, which may hold a key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlflow_lmms.reading.errored import POLICIES, ErroredPolicy
from worker.runner.events import PROTOCOL

T = TypeVar("T")
D = TypeVar("D")


class RequestError(ValueError):
    """The request is not what protocol version 1 asks for."""


@dataclass(frozen=True)
class Seeds:
    """The seeds that lmms-eval takes, in its own order."""

    python: int
    numpy: int
    torch: int
    fewshot: int


@dataclass(frozen=True)
class Rate:
    """How often an endpoint (a host, with its port where it has one) may be asked; the worker grants each request."""

    endpoint: str
    per_minute: int


@dataclass(frozen=True)
class RunRequest:
    """What to evaluate, with what, and where to put it.

    With several `processes` each has the whole model and its share of the documents. `rescore_from` is a folder with
    samples files: their answers are scored again, and no model is loaded.
    """

    run_id: str
    part: str
    attempt: int
    model: str
    model_args: str
    tasks: tuple[str, ...]
    include_paths: tuple[str, ...]
    limit: int | None
    offset: int
    batch_size: int
    num_fewshot: int | None
    seeds: Seeds
    gen_kwargs: str | None
    repeats: int | None
    chunk_size: int
    cache_folder: Path
    output_folder: Path
    thumbnail_bytes: int
    device: str | None
    trust_remote_code: bool
    primary: Mapping[str, str]
    dimensions: Mapping[str, tuple[str, ...]]
    errored: ErroredPolicy
    processes: int = 1
    rescore_from: Path | None = None
    rate: Rate | None = None


def parse_request(text: str) -> RunRequest:
    """Read the request, or raise `RequestError` that names the field."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RequestError(f"expected one JSON object on stdin, got {len(text)} characters: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(f"expected one JSON object on stdin, got a {type(document).__name__}")
    protocol = document.get("protocol")
    if protocol != PROTOCOL:
        raise RequestError(
            f"expected protocol {PROTOCOL}, got {protocol!r}; install worker and runner from the same release"
        )
    return _build(_Fields(document))


def _build(fields: _Fields) -> RunRequest:
    return RunRequest(
        run_id=fields.text("run_id"),
        part=fields.text("part"),
        attempt=fields.number("attempt", least=0),
        model=fields.text("model"),
        model_args=fields.text("model_args", empty=True),
        tasks=fields.texts("tasks", empty=False),
        include_paths=fields.texts("include_paths"),
        limit=fields.optional("limit", lambda name: fields.number(name, least=1)),
        offset=fields.number("offset", least=0),
        batch_size=fields.number("batch_size", least=1),
        num_fewshot=fields.optional("num_fewshot", lambda name: fields.number(name, least=0)),
        seeds=fields.seeds("seeds"),
        gen_kwargs=fields.optional("gen_kwargs", lambda name: fields.text(name, empty=True)),
        repeats=fields.optional("repeats", lambda name: fields.number(name, least=1)),
        chunk_size=fields.number("chunk_size", least=1),
        cache_folder=fields.folder("cache_folder"),
        output_folder=fields.folder("output_folder"),
        thumbnail_bytes=fields.number("thumbnail_bytes", least=0),
        device=fields.optional("device", fields.text),
        trust_remote_code=fields.flag("trust_remote_code", default=False),
        primary=fields.by_task("primary", lambda inner, task: inner.text(task)),
        dimensions=fields.by_task("dimensions", lambda inner, task: inner.texts(task)),
        errored=fields.errored("errored"),
        processes=fields.added("processes", 1, lambda name: fields.number(name, least=1)),
        rescore_from=fields.added("rescore_from", None, fields.folder),
        rate=fields.added("rate", None, fields.rate),
    )


class _Fields:
    """Typed access to the raw object; every complaint names the field."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def _get(self, name: str) -> Any:
        if name not in self._document:
            raise RequestError(f"expected the field {name!r} in the request, it is missing")
        return self._document[name]

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        return None if self._get(name) is None else read(name)

    def added(self, name: str, default: D, read: Callable[[str], T]) -> T | D:
        """Read a field that a request of an earlier release does not have."""
        return default if self._document.get(name) is None else read(name)

    def text(self, name: str, empty: bool = False) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not (value or empty):
            raise RequestError(f"expected {name!r} to be text, got {type(value).__name__}")
        return value

    def texts(self, name: str, empty: bool = True) -> tuple[str, ...]:
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise RequestError(f"expected {name!r} to be a list of names, got {value!r}")
        if not (value or empty):
            raise RequestError(f"expected {name!r} to name at least one, got an empty list")
        return tuple(dict.fromkeys(value))

    def number(self, name: str, least: int) -> int:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RequestError(f"expected {name!r} to be a whole number of at least {least}, got {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._document.get(name, default)
        if not isinstance(value, bool):
            raise RequestError(f"expected {name!r} to be true or false, got {value!r}")
        return value

    def by_task(self, name: str, read: Callable[[_Fields, str], T]) -> dict[str, T]:
        """Read an object whose names are tasks; empty where it is missing."""
        value = self._document.get(name) or {}
        if not isinstance(value, dict):
            raise RequestError(f"expected {name!r} to be an object by task, got {type(value).__name__}")
        inner = _Fields(value)
        return {task: read(inner, task) for task in value}

    def errored(self, name: str) -> ErroredPolicy:
        """Read the policy for errored samples; lmms-eval's own numbers stand where it is missing."""
        value = self._document.get(name) or {}
        if not isinstance(value, dict):
            raise RequestError(f"expected {name!r} to be an object, got {type(value).__name__}")
        policy, share = value.get("policy", ErroredPolicy().policy), value.get("fail_above")
        if policy not in POLICIES:
            raise RequestError(f"expected the policy in {name!r} to be one of {', '.join(POLICIES)}, got {policy!r}")
        if share is not None and (
            isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1
        ):
            raise RequestError(f"expected 'fail_above' in {name!r} to be a share from 0 to 1, got {share!r}")
        return ErroredPolicy(policy, share)

    def folder(self, name: str) -> Path:
        path = Path(self.text(name))
        if not path.is_absolute():
            raise RequestError(f"expected {name!r} to be an absolute path, got {str(path)!r}")
        return path

    def rate(self, name: str) -> Rate:
        value = self._get(name)
        if not isinstance(value, dict):
            raise RequestError(f"expected {name!r} to be an object, got {type(value).__name__}")
        inner = _Fields(value)
        return Rate(inner.text("endpoint"), inner.number("per_minute", least=1))

    def seeds(self, name: str) -> Seeds:
        value = self._get(name)
        if not isinstance(value, dict):
            raise RequestError(f"expected {name!r} to be an object, got {type(value).__name__}")
        inner = _Fields(value)
        return Seeds(*(inner.number(seed, least=0) for seed in ("python", "numpy", "torch", "fewshot")))
