"""How runs were made, laid side by side: which settings differ. Pure: MLflow runs and their environments in.

What looks like a secret is masked here too: params and tags may have been written by any program.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.model_arguments import parse_model_arguments
from mlflow_lmms.names import Tag
from mlflow_lmms.recorded_run import model_label, recorded_tasks, tag_object
from mlflow_lmms.scrubbing import Scrubber

#: Params that hold lmms-eval's ``a=b,c=d``.
_ARGUMENTS = frozenset({"model_args", "gen_kwargs"})
_TAGS = {
    Tag.MODEL: "model",
    Tag.MODEL_VERSION: "model version",
    Tag.ADAPTER: "adapter",
    Tag.SUITE: "suite",
    Tag.SUITE_REVISION: "suite revision",
    Tag.SOURCE: "source",
    Tag.LMMS_EVAL_VERSION: "lmms-eval",
    Tag.GPUS: "GPUs",
    Tag.WORKER: "worker",
    Tag.ATTEMPT: "attempt",
    Tag.SMOKE: "smoke",
    "mlflow.source.git.commit": "git commit",
}
_LONGEST = 2000
_DEPTH = 8
_MOST_OF_ONE = 5000


@dataclass(frozen=True)
class Setting:
    """One setting; `values` by run id, None where the run does not tell it.

    Attributes:
        section: ``param``, ``run``, ``environment``, or ``task <name>`` for what a result was made of.
    """

    section: str
    name: str
    values: Mapping[str, str | None]

    @property
    def differs(self) -> bool:
        """Whether the runs do not agree."""
        return len(set(self.values.values())) > 1


@dataclass(frozen=True)
class ConfigDiff:
    """The settings of some runs; `models` are their names by run id."""

    models: Mapping[str, str]
    settings: tuple[Setting, ...]

    def as_json(self, *, everything: bool = False) -> dict[str, Any]:
        """Plain values for programs: what differs, or everything."""
        shown = [setting for setting in self.settings if everything or setting.differs]
        return {
            "models": dict(self.models),
            "settings": [
                {"section": s.section, "name": s.name, "values": dict(s.values), "differs": s.differs} for s in shown
            ],
            "equal": sum(not setting.differs for setting in self.settings),
        }


def config_diff(runs: Sequence[Run], environments: Mapping[str, Any]) -> ConfigDiff:
    """Lay the runs' settings side by side.

    Args:
        environments: the content of `environment.json` by run id, for runs that have one.
    """
    scrubber = Scrubber()
    found: dict[tuple[str, str], dict[str, str]] = {}
    for run in runs:
        for section, name, value in _settings(run, environments.get(run.info.run_id)):
            found.setdefault((section, name), {})[run.info.run_id] = scrubber.scrub(f"{name}={value}"[:_LONGEST])
    ids = [run.info.run_id for run in runs]
    settings = (
        Setting(section, name, {run_id: _value(told.get(run_id), name) for run_id in ids})
        for (section, name), told in sorted(found.items())
    )
    return ConfigDiff({run.info.run_id: model_label(run) for run in runs}, tuple(settings))


def _value(told: str | None, name: str) -> str | None:
    """Without the name, which stood before it so that its kind of secret is known."""
    return None if told is None else told.removeprefix(f"{name}=")


def _settings(run: Run, environment: Any) -> Iterator[tuple[str, str, str]]:
    for name, value in run.data.params.items():
        yield from (("param", *pair) for pair in _param(name, value))
    for tag, name in _TAGS.items():
        if tag in run.data.tags:
            yield "run", name, run.data.tags[tag]
    yield from (("environment", *pair) for pair in _flat("", environment))
    for task in recorded_tasks(run.data.tags):
        primary = tag_object(run.data.tags, Tag.primary(task))
        for name in ("metric", "filter"):
            if name in primary:
                yield f"task {task}", name, _text(primary[name])
        yield from ((f"task {task}", *pair) for pair in _flat("", tag_object(run.data.tags, Tag.fingerprint(task))))


def _param(name: str, value: str) -> Iterator[tuple[str, str]]:
    """A param; one that holds arguments or a JSON object is taken apart."""
    if name in _ARGUMENTS:
        try:
            for key, part in parse_model_arguments(value).items():
                yield f"{name}.{key}", part
        except InvalidRequestError:
            yield name, value
        return
    if value.startswith("{"):
        try:
            content = json.loads(value)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            yield from _flat(f"{name}.", content)
            return
    yield name, value


def _flat(prefix: str, content: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """``{"a": {"b": 1}}`` as ``a.b = 1``; what is nested deeper than anything of ours stays one text."""
    if not isinstance(content, Mapping):
        return
    for key, value in list(content.items())[:_MOST_OF_ONE]:
        if isinstance(value, Mapping) and value and depth < _DEPTH:
            yield from _flat(f"{prefix}{key}.", value, depth + 1)
        elif value is not None:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except (RecursionError, ValueError, TypeError):
        return "(nested too deeply)"
