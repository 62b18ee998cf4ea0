"""A suite: a named set of tasks, each with what stands for it, how much it weighs and what a gate allows. Pure.

As YAML a suite looks like this; a task without settings of its own is just its name:

    name: documents
    description: What we look at before a release.
    errored: {policy: wrong, fail_above: 0.05}
    tasks:
      - task: chartqa
        primary: relaxed_overall
        weight: 2
        margin: 0.01
        dimensions: [question_type]
      - docvqa_val
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.plain_yaml import read_plain_yaml
from mlflow_lmms.request import DimensionName, Errored, Identifier, MetricChoice, TaskName

MOST_TASKS = 2000
NOTE_LIMIT = 2000

Note = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=NOTE_LIMIT)]


def _named(value: Any) -> Any:
    """Take a bare task name as well as a mapping."""
    return {"task": value} if isinstance(value, str) else value


class SuiteTask(BaseModel):
    """One task of a suite; a group or tag of lmms-eval stands for its tasks, each with the same settings.

    `margin` is how much worse a model may be, in the metric's own units, and still pass a gate; `slice_margin` is the
    same for each group of its dimensions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskName
    primary: MetricChoice | None = None
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)
    margin: float | None = Field(None, ge=0, le=1_000_000, allow_inf_nan=False)
    slice_margin: float | None = Field(None, ge=0, le=1_000_000, allow_inf_nan=False)
    dimensions: Annotated[tuple[DimensionName, ...], Field(max_length=50)] = ()


class Suite(BaseModel):
    """One revision's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Identifier
    description: Note = ""
    tasks: Annotated[tuple[Annotated[SuiteTask, BeforeValidator(_named)], ...], Field(max_length=MOST_TASKS)]
    errored: Errored | None = None

    @model_validator(mode="after")
    def _each_task_once(self) -> Self:
        if not self.tasks:
            raise ValueError("tasks: name at least one")
        names = [entry.task for entry in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self

    @staticmethod
    def parse(content: Any, where: str = "the suite") -> Suite:
        """Check `content` and return the suite.

        Raises:
            InvalidRequestError: with every problem, each with the field, what was expected and what came.
        """
        if not isinstance(content, Mapping):
            raise InvalidRequestError(
                f"{where}: expected a mapping with name and tasks, got {type(content).__name__}"
            )
        try:
            return Suite.model_validate(content)
        except ValidationError as error:
            problems = "; ".join(_problem(item) for item in error.errors()[:20])
            raise InvalidRequestError(f"{where}: {problems}") from None

    @staticmethod
    def from_yaml(text: str, where: str = "the suite") -> Suite:
        """Read the YAML form.

        Raises:
            InvalidRequestError: what is wrong with it.
        """
        return Suite.parse(read_plain_yaml(text, where), where)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not set is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def as_yaml(self) -> str:
        """The YAML form, which `from_yaml` reads back as the same suite."""
        content = self.as_json()
        content["tasks"] = [entry["task"] if len(entry) == 1 else entry for entry in content["tasks"]]
        written: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
        return written


@dataclass(frozen=True)
class SuiteRevision:
    """One revision of a suite: who made it, when and why."""

    suite: Suite
    revision: int
    created_by: str | None
    created_at: float
    note: str

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.suite.name

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "name": self.name,
            "revision": self.revision,
            "created_by": self.created_by,
            "created_at": self.created_at,
            "note": self.note,
            "suite": self.suite.as_json(),
        }


@dataclass(frozen=True)
class SuiteHead:
    """A suite in a list: its newest revision and its author."""

    newest: SuiteRevision
    author: str | None
    created_at: float

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {**self.newest.as_json(), "author": self.author}


def settings_by_task(suite: Suite, leaves: Mapping[str, Iterable[str]]) -> dict[str, SuiteTask]:
    """The settings of each task that is run.

    Args:
        leaves: the tasks behind each entry's name.

    Raises:
        InvalidRequestError: a task that stands in two entries, by way of a group.
    """
    found: dict[str, SuiteTask] = {}
    for entry in suite.tasks:
        for task in leaves[entry.task]:
            if task in found:
                raise InvalidRequestError(
                    f"the suite has {task} twice, by {found[task].task} and by {entry.task}: leave one of them out"
                )
            found[task] = entry
    return found


def _problem(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = SuiteTask if len(item["loc"]) > 1 and item["loc"][0] == "tasks" else Suite
        return f"{where[:120]}: no such field; there are {', '.join(known.model_fields)}"
    came = item["input"]
    shown = repr(came)[:80] if came is None or isinstance(came, str | int | float) else type(came).__name__
    return f"{where}: {message}, got {shown}" if where else message
