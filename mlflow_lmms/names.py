"""Every name that a result has inside an MLflow run: metrics, tags, artifacts. Shared by writer and reader. Pure.

A metric is called ``<task>/<metric>[:<filter>][/<dimension>:<value>][::<statistic>]``; each part is escaped by
itself, so the name can be taken apart again. MLflow accepts letters, digits, ``_ - . :``, ``/`` and space, at
most 250 characters. The scores of lmms-eval's groups have the group's name in the task's place.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

NAME_LIMIT = 250
TAGS_AT_ONCE = 100  # in one call
DEFAULT_FILTER = "none"
EXPERIMENT = "lmms-eval"

_ALLOWED = re.compile(r"[A-Za-z0-9_\-. ]")
_ESCAPE = re.compile(r"\.x((?:10|[0-9A-F])?[0-9A-F]{4})\.")
_EMPTY = ".x."
_CUT = ":::"  # no name of ours has three colons


class Tag:
    """Keys of the run tags."""

    STATE = "lmms.state"
    MODEL = "lmms.model"
    MODEL_VERSION = "lmms.model_version"
    LOGGED_MODEL = "lmms.logged_model"
    ADAPTER = "lmms.adapter"
    UNREGISTERED = "lmms.unregistered"
    SUITE = "lmms.suite"
    SUITE_REVISION = "lmms.suite_revision"
    TASKS = "lmms.tasks"
    SOURCE = "lmms.source"
    IMPORT_KEY = "lmms.import_key"
    REPORTED_SOURCE = "lmms.reported_source"
    ATTEMPT = "lmms.attempt"
    WORKER = "lmms.worker"
    GPUS = "lmms.gpus"
    FAILURE = "lmms.failure"
    WARNINGS = "lmms.warnings"
    QUEUED_AT = "lmms.queued_at"
    STARTED_AT = "lmms.started_at"
    ENDED_AT = "lmms.ended_at"
    CREATED_BY = "lmms.created_by"
    SMOKE = "lmms.smoke"
    PRIORITY = "lmms.priority"
    LMMS_EVAL_VERSION = "lmms.lmms_eval_version"

    @staticmethod
    def task_state(task: str) -> str:
        """Key of the tag that mirrors one task's state."""
        return cut(f"lmms.task.{escape(task)}.state")

    @staticmethod
    def primary(task: str) -> str:
        """Key of the tag that names one task's primary metric, with its filter, direction and reason, as JSON."""
        return cut(f"lmms.task.{escape(task)}.primary")

    @staticmethod
    def worst(task: str) -> str:
        """Key of the tag that names one task's worst slice, as ``dimension=value``."""
        return cut(f"lmms.task.{escape(task)}.worst")

    @staticmethod
    def fingerprint(task: str) -> str:
        """Key of the tag with one task's fingerprint, as JSON."""
        return cut(f"lmms.task.{escape(task)}.fingerprint")

    @staticmethod
    def whole_name(cut: str) -> str:
        """Key of the tag that keeps the whole name behind a metric name that had to be cut."""
        return f"lmms.name.{cut.rsplit(_CUT, 1)[1]}"


class Artifact:
    """Paths inside the run's artifacts."""

    ROOT = "lmms"
    REQUEST = "lmms/request.json"
    RESULTS = "lmms/results.json"
    SAMPLES = "lmms/samples"
    SLICES = "lmms/slices.parquet"
    LOG = "lmms/log.jsonl"
    ENVIRONMENT = "lmms/environment.json"
    COMMAND = "lmms/command.txt"
    CHECKPOINT = "lmms/checkpoint"

    @staticmethod
    def samples(task: str) -> str:
        """Path of one task's samples table."""
        return f"{Artifact.SAMPLES}/{escape(task)}.parquet"

    @staticmethod
    def scores(task: str) -> str:
        """Path of one task's small sorted scores table."""
        return f"{Artifact.SAMPLES}/{escape(task)}.scores.parquet"

    @staticmethod
    def task_result(task: str) -> str:
        """Path of one task's result as the runner wrote it."""
        return f"lmms/tasks/{escape(task)}.json"


def escape(part: str) -> str:
    """Return `part` in characters that MLflow takes anywhere in a name; `unescape` gives it back.

    A character outside ``A-Z a-z 0-9 _ - .`` and space becomes ``.xHHHH.`` (code point in hex); so does a dot
    that starts the part (``.`` and ``..`` are refused as paths) or that could begin an escape.
    """
    if not part:
        return _EMPTY
    return "".join(
        char if _ALLOWED.match(char) and not (char == "." and (at == 0 or part.startswith(".x", at))) else _hex(char)
        for at, char in enumerate(part)
    )


def unescape(escaped: str) -> str:
    """Return the text that `escape` was given."""
    if escaped == _EMPTY:
        return ""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), escaped)


@dataclass(frozen=True)
class MetricName:
    """One metric of one task, with the slice and the statistic that it may be about."""

    task: str
    metric: str
    filter: str = DEFAULT_FILTER
    dimension: str | None = None
    value: str | None = None
    statistic: str | None = None

    def __str__(self) -> str:
        """The whole MLflow name, which may be longer than MLflow takes: see `cut`."""
        name = f"{escape(self.task)}/{escape(self.metric)}"
        if self.filter != DEFAULT_FILTER:
            name += f":{escape(self.filter)}"
        if self.dimension is not None:
            name += f"/{escape(self.dimension)}:{escape(self.value or '')}"
        return name if self.statistic is None else f"{name}::{escape(self.statistic)}"

    def of(self, statistic: str) -> MetricName:
        """The same metric's statistic.

        Of a metric: ``n``, ``ci_low``, ``ci_high``, ``errored``; lmms-eval's own ``stderr`` and, where a policy for
        errored samples changed the value, its ``native`` one; of repeated answers ``EA``, ``CA``, ``IV`` and ``CR``;
        of a dimension ``worst <dimension>`` and ``gap <dimension>``.
        """
        return replace(self, statistic=statistic)

    @staticmethod
    def parse(name: str) -> MetricName | None:
        """Take a name apart; None when it is not one of ours (or was cut: look its whole name up first)."""
        match = _METRIC.fullmatch(name)
        if match is None or _CUT in name:
            return None
        parts = {key: None if text is None else unescape(text) for key, text in match.groupdict().items()}
        found = MetricName(
            task=parts["task"] or "",
            metric=parts["metric"] or "",
            filter=parts["filter"] if parts["filter"] is not None else DEFAULT_FILTER,
            dimension=parts["dimension"],
            value=parts["value"],
            statistic=parts["statistic"],
        )
        return found if str(found) == name else None


def cut(name: str) -> str:
    """Return `name` (of a metric or tag), or when MLflow would refuse its length its beginning and a hash of it."""
    if len(name) <= NAME_LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return name[: NAME_LIMIT - len(_CUT) - len(digest)].rstrip("/ :.") + _CUT + digest


def was_cut(name: str) -> bool:
    """Whether `cut` shortened this name."""
    return _CUT in name


_PART = r"[\w\-. ]+"
_METRIC = re.compile(
    rf"(?P<task>{_PART})/(?P<metric>{_PART})(?::(?P<filter>{_PART}))?"
    rf"(?:/(?P<dimension>{_PART}):(?P<value>{_PART}))?(?:::(?P<statistic>{_PART}))?"
)


def _hex(char: str) -> str:
    return f".x{ord(char):04X}."
