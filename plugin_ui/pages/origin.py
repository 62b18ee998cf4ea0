"""Where an evaluation's results come from, in words and as an address. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlflow_lmms.evaluation import Evaluation
from mlflow_lmms.names import Tag
from mlflow_lmms.recorded_run import tag_object
from mlflow_lmms.score import REPORTED

_WORDS = {"import": "imported from output files", "client": "logged by a program", REPORTED: "published by others"}


@dataclass(frozen=True)
class PublishedSource:
    """Where reported scores were published; `url` where all have the same, `urls` by task."""

    name: str
    url: str | None
    urls: dict[str, str]


def published_source(tags: Mapping[str, str], tasks: Iterable[str]) -> PublishedSource:
    """The source of a reported run as its tags tell it; only http and https addresses are taken."""
    name = tags.get(Tag.REPORTED_SOURCE, "")
    found = {task: web_address(tag_object(tags, Tag.primary(task)).get("url")) for task in tasks}
    urls = {task: url for task, url in found.items() if url is not None}
    distinct = set(urls.values())
    return PublishedSource(
        name=name or "source not told",
        url=web_address(name) or (distinct.pop() if len(distinct) == 1 else None),
        urls=urls,
    )


def web_address(value: object) -> str | None:
    """The value if it is an http or https address that can stand in a link."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
    except ValueError:  # half an IPv6 address
        return None
    return str(value) if parts is not None and parts.scheme in ("http", "https") and parts.netloc else None


def origin_words(evaluation: Evaluation) -> str:
    """Empty for what our own queue ran."""
    return "" if evaluation.queued_here else _WORDS.get(evaluation.source, evaluation.source)
