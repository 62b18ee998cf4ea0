"""What a board is asked for: its filters, how results and versions are chosen, what its order is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

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
from mlflow_lmms.problems import problems

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
_DAY_S = 86_400
Texts = Annotated[tuple[Text, ...], Field(max_length=1000)]


def _moment(value: Any) -> Any:
    """A date or a date with a time (without a zone: UTC) as unix seconds; anything else as it came."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _end(value: Any) -> Any:
    """The same; a date alone stands for the end of its day."""
    found = _moment(value)
    return (
        found + _DAY_S - 1 if isinstance(value, str) and len(value) == len("2026-01-31") and found != value else found
    )


#: Which of a registered model's versions have a row; ``@NAME``: those with this alias.
Versions = Annotated[str, StringConstraints(pattern=r"^(all|latest|best|@[A-Za-z0-9_\-]{1,255})$")]
#: Query arguments by the field that they fill; those that may be given several times end in ``[]``.
_ARGUMENTS = {
    "suite": "suite",
    "experiment": "experiments[]",
    "task": "tasks[]",
    "model": "models[]",
    "pin": "pinned[]",
    "modality": "modalities[]",
    "category": "categories[]",
    "group": "groups[]",
    "tag": "tags[]",
    "since": "since",
    "until": "until",
    "min_size": "min_size",
    "max_size": "max_size",
    "versions": "versions",
    "result": "result",
    "overall": "overall",
    "partial": "partial",
    "flagged": "flagged",
    "costs": "costs",
}


class BoardQuery(BaseModel):
    """One board. Empty filters leave nothing out.

    Attributes:
        models: names of models, without their versions.
        pinned: tasks whose columns come first, in this order, also where nobody has a result of them.
        modalities, categories, groups: what the catalogue says of tasks; groups are lmms-eval's groups and tags.
        tags: tags of runs as ``key=value``; all must hold.
        since, until: when a result was recorded, in unix seconds or as a date; `until` takes its whole day in.
        min_size, max_size: billions of parameters of a registered model's version.
        versions: ``all``; ``latest``: the highest version of each model that has a result here; ``best``: the one
            with the best overall score; ``@alias``: those with this alias.
        result: which of several results of one model on one task is shown.
        overall: mean win rate, mean of scores on a scale from 0 to 1, or such a mean with the suite's weights.
        partial, flagged: whether results over a part of the documents, and results whose warnings speak against it,
            are ranked.
        costs: whether models have their GPU-hours and tokens beside them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: Text | None = None
    experiments: Texts = ()
    tasks: Texts = ()
    models: Texts = ()
    pinned: Texts = ()
    modalities: Texts = ()
    categories: Texts = ()
    groups: Texts = ()
    tags: Texts = ()
    since: Annotated[float | None, BeforeValidator(_moment)] = Field(None, allow_inf_nan=False)
    until: Annotated[float | None, BeforeValidator(_end)] = Field(None, allow_inf_nan=False)
    min_size: float | None = Field(None, ge=0, allow_inf_nan=False)
    max_size: float | None = Field(None, ge=0, allow_inf_nan=False)
    versions: Versions = "all"
    result: Literal["latest", "best"] = "latest"
    overall: Literal["win_rate", "normalised", "weighted"] = "win_rate"
    partial: bool = False
    flagged: bool = False
    costs: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.overall == "weighted" and self.suite is None:
            raise ValueError("overall=weighted needs a suite, whose weights it takes")
        for tag in self.tags:
            if not tag.partition("=")[1]:
                raise ValueError(f"tag: expected key=value, got {tag!r}")
        return self

    @property
    def by_history(self) -> bool:
        """Whether runs are left out, so that a result may stand on the board which is not the newest of all."""
        return bool(self.tags) or self.since is not None or self.until is not None

    @property
    def by_size(self) -> bool:
        """Whether models are left out by their number of parameters."""
        return self.min_size is not None or self.max_size is not None

    @property
    def by_catalogue(self) -> bool:
        """Whether tasks are left out by what the catalogue says of them."""
        return bool(self.modalities or self.categories or self.groups)

    @staticmethod
    def of(content: Any) -> BoardQuery:
        """Check values by field name.

        Raises:
            InvalidRequestError: with each field that is wrong.
        """
        try:
            return BoardQuery.model_validate(content)
        except ValidationError as error:
            raise InvalidRequestError(problems(error, "board")) from None

    @staticmethod
    def from_arguments(arguments: Mapping[str, Sequence[str]]) -> BoardQuery:
        """Read a query string's arguments (``?task=a&task=b&versions=latest``); others, and empty ones, are ignored.

        Raises:
            InvalidRequestError: with each argument that is wrong.
        """
        content: dict[str, Any] = {}
        for argument, name in _ARGUMENTS.items():
            given = [text for text in arguments.get(argument, ()) if text]
            if given:
                content[name.removesuffix("[]")] = given if name.endswith("[]") else given[-1]
        return BoardQuery.of(content)

    def as_arguments(self) -> dict[str, list[str]]:
        """The query string's arguments that `from_arguments` reads back as the same query."""
        content = self.model_dump(exclude_defaults=True)
        found: dict[str, list[str]] = {}
        for argument, name in _ARGUMENTS.items():
            value = content.get(name.removesuffix("[]"))
            if value is not None:
                found[argument] = list(value) if isinstance(value, tuple) else [_text(value)]
        return found


def _text(value: str | float | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
