"""One results file of lmms-eval (0.3 to 0.7) or lm-evaluation-harness (0.4), read into what we use of it.

Owns where each version keeps what. Nothing is believed: a value of another type than expected counts as absent, and
without sound results the file is refused.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mlflow_lmms.importing.json_files import plain, read_document
from mlflow_lmms.importing.refused_file import RefusedFileError
from mlflow_lmms.reading.metric_key import MetricKey, ReportedMetric, finite_number, metric_key, reported_metrics

LMMS_EVAL, LM_EVAL = "lmms-eval files", "lm-eval files"
MOST_METRICS = 2_000
_TASK_NAME = re.compile(r"[^\s,/\\\x00-\x1f\ud800-\udfff][^,/\\\x00-\x1f\ud800-\udfff]{0,249}")
_COMPACT = re.compile(r"(\d{8})_(\d{6})")
_ISO = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2})[-:](\d{2})[-:](\d{2})")
#: lmms-eval's own default for the time in its file names, whatever the machine's time zone is.
_LMMS_EVAL_ZONE = "Asia/Singapore"
_EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TaskEntry:
    """What a results file says of one task; `documents` is how many it was run on, where it says so."""

    name: str
    raw: Mapping[str, Any]
    metrics: Mapping[MetricKey, ReportedMetric]
    config: Mapping[str, Any]
    higher_is_better: Mapping[str, Any]
    documents: int | None
    size: int | None
    num_fewshot: int | None

    @property
    def output_type(self) -> str:
        """How the model was asked; text is generated where nothing is said."""
        return str(self.config.get("output_type") or "generate_until")

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters in the order in which lmms-eval applies them."""
        reported = list(dict.fromkeys(key.filter for key in self.metrics))
        declared = [str(item["name"]) for item in _list(self.config.get("filter_list")) if _named(item)]
        return tuple(declared if set(reported) <= set(declared) else reported) or ("none",)


@dataclass(frozen=True)
class ResultsFile:
    """A whole results file; `groups` are the rows that are no tasks, `members` what each of them holds."""

    path: Path
    sha256: str
    origin: str
    tasks: Mapping[str, TaskEntry]
    groups: Mapping[str, Mapping[str, Any]]
    members: Mapping[str, tuple[str, ...]]
    config: Mapping[str, Any]
    content: Mapping[str, Any]
    ended_at: float
    seconds: float | None

    @property
    def limit(self) -> float | None:
        """How many documents of each task were asked for (a share where it is below 1); none: all."""
        told = self.config.get("limit")
        number = finite_number(told) if not isinstance(told, str | bool) else None
        if number is None or number <= 0:
            return None
        return int(number) if number.is_integer() else number

    @property
    def offset(self) -> int:
        """How many documents were left out at the start."""
        return _count(self.config.get("offset")) or 0

    def in_plain_group(self, task: str) -> bool:
        """Whether a group without a score of its own holds the task: its score would be a mean over its members."""
        return any(
            task in own and not reported_metrics(self.groups.get(group, {})) for group, own in self.members.items()
        )

    @property
    def version(self) -> str | None:
        """The version of the program that wrote it, where it knew."""
        told = self.content.get("lmms_eval_version") or self.content.get("lm_eval_version")
        version = str(told or "").partition("@")[0]
        return version if version not in ("", "unknown", "None") else None


def read_results_file(path: Path) -> ResultsFile:
    """Read one results file.

    Raises:
        RefusedFileError: it is none, or not a sound one, with the reason.
    """
    content, raw = read_document(path)
    results = content.get("results")
    if not isinstance(results, dict) or not results:
        raise RefusedFileError(path, "expected an object `results` with a task in it, as lmms-eval writes it")
    members = _members(content)
    groups = {name for name in results if _is_group(name, content, members)}
    # lm-eval repeats its groups under a key of their own; lmms-eval has had them among the tasks only.
    tasks = {name: _task(path, name, content) for name in results if name not in groups}
    if not tasks:
        raise RefusedFileError(path, "its `results` hold groups alone, and no task")
    ended_at, seconds = _times(path, content)
    return ResultsFile(
        path=path,
        sha256=hashlib.sha256(raw).hexdigest(),
        origin=_origin(path, content),
        tasks=tasks,
        groups={name: _mapping(results[name]) for name in results if name in groups},
        members=members,
        config=_mapping(content.get("config")),
        content=content,
        ended_at=ended_at,
        seconds=seconds,
    )


def _task(path: Path, name: str, content: Mapping[str, Any]) -> TaskEntry:
    entry = content["results"][name]
    if not isinstance(entry, dict):
        raise RefusedFileError(path, f"expected an object for task {name[:80]!r}, got {type(entry).__name__}")
    if not _TASK_NAME.fullmatch(name):
        raise RefusedFileError(path, f"{name[:80]!r} is no name of a task")
    if len(entry) > MOST_METRICS:
        raise RefusedFileError(path, f"task {name!r} has {len(entry):,} entries, more than {MOST_METRICS:,}")
    for key in _not_finite(entry):
        raise RefusedFileError(path, f"task {name!r}: {key!r} is not a finite number")
    counts = _mapping(_of(content, "n-samples", name))
    shots = _of(content, "n-shot", name)
    return TaskEntry(
        name=name,
        raw=plain(entry),
        metrics=reported_metrics(entry),
        config=_mapping(_of(content, "configs", name)),
        higher_is_better=_mapping(_of(content, "higher_is_better", name)),
        documents=_count(counts.get("effective")),
        size=_count(counts.get("original")),
        num_fewshot=_count(shots),
    )


def _not_finite(entry: Mapping[str, Any]) -> Iterator[str]:
    """Scores that are NaN or infinite; a standard error that is not finite is only no standard error."""
    for name, value in entry.items():
        if isinstance(value, float) and not math.isfinite(value):
            key = metric_key(name)
            if key is not None and "_stderr" not in key.metric:
                yield name


def _members(content: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = content.get("group_subtasks")
    if isinstance(found, str):  # a Python mapping as text, where a file went through another program
        try:
            found = ast.literal_eval(found) if len(found) < 1_000_000 else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
    members = {str(name): tuple(map(str, _list(own))) for name, own in _mapping(found).items()}
    return {name: own for name, own in members.items() if own}


def _is_group(name: str, content: Mapping[str, Any], members: Mapping[str, Any]) -> bool:
    entry = content["results"][name]
    if isinstance(entry, dict) and " " in entry and not reported_metrics(entry):
        return True
    if name in _mapping(content.get("configs")):
        return False
    return name in members or name in _mapping(content.get("groups"))


def _origin(path: Path, content: Mapping[str, Any]) -> str:
    by_lm_eval = path.name.startswith("results_") or "lm_eval_version" in content or "pretty_env_info" in content
    return LM_EVAL if by_lm_eval and "lmms_eval_version" not in content else LMMS_EVAL


def _times(path: Path, content: Mapping[str, Any]) -> tuple[float, float | None]:
    """When the evaluation ended, by what the file says of itself, and how long it took."""
    try:
        seconds: float | None = float(str(content.get("total_evaluation_time_seconds")))
    except ValueError:
        seconds = None
    if seconds is not None and not 0 <= seconds < 10**8:
        seconds = None
    began, ended = _dates(path, content)
    if ended is None and began is not None:
        ended = began.timestamp() + (seconds or 0.0)
    return (path.stat().st_mtime if ended is None else float(ended)), seconds


def _dates(path: Path, content: Mapping[str, Any]) -> tuple[datetime | None, float | None]:
    """Beginning and end, so far as they are said: lm-eval names its files by the end, lmms-eval by the beginning."""
    told = content.get("date")
    if isinstance(told, int | float) and not isinstance(told, bool) and _EARLIEST.timestamp() < told < 1e11:
        return datetime.fromtimestamp(told, UTC), None
    for text in (str(told), path.name, path.parent.name):
        if began := _moment(_COMPACT, "%Y%m%d %H%M%S", text, _zone(content)):
            return began, None
        if ended := _moment(_ISO, "%Y-%m-%d %H %M %S", text, datetime.now().astimezone().tzinfo):
            return None, ended.timestamp()
    return None, None


def _moment(pattern: re.Pattern[str], form: str, text: str, zone: tzinfo | None) -> datetime | None:
    match = pattern.search(text)
    if match is None:
        return None
    try:
        found = datetime.strptime(" ".join(match.groups()), form).replace(tzinfo=zone or UTC)
    except ValueError:
        return None
    return found if found > _EARLIEST else None


def _zone(content: Mapping[str, Any]) -> tzinfo:
    arguments = _mapping(_mapping(content.get("config")).get("resolved_cli_args"))
    for name in (arguments.get("timezone"), _LMMS_EVAL_ZONE):
        try:
            return ZoneInfo(str(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return UTC


def _of(content: Mapping[str, Any], field: str, task: str) -> Any:
    return _mapping(content.get(field)).get(task)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list | tuple) else []  # type: ignore[return-value]


def _named(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else None
