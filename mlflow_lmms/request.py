"""What a user asks for: one model, some tasks, and how to run them. Pure: values in, a checked value out."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from mlflow_lmms.model_arguments import parse_model_arguments, refuse_secrets

_REGISTRY_URI = re.compile(r"models:/[^/@]+(/[1-9][0-9]*|@[A-Za-z0-9_\-]+)")

Priority = Literal["high", "normal", "low"]
_MOST_DOCUMENTS = 10**9


def _names(value: Any) -> Any:
    """Take ``"a,b"`` as well as ``["a", "b"]``."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _arguments(value: Any) -> Any:
    """Take lmms-eval's ``"a=b,c=d"`` as well as a mapping."""
    if isinstance(value, str):
        return parse_model_arguments(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, bool | int | float) else value


TaskName = Annotated[str, StringConstraints(pattern=r"^[^\s,/\\][^\n,/\\]{0,249}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,100}$")]
#: What a database takes (PostgreSQL no NUL, none a lone surrogate), and what MLflow keeps of a param.
ArgumentText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=6000)]
Arguments = Annotated[dict[ArgumentText, ArgumentText], BeforeValidator(_arguments)]
Title = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", max_length=250)
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no other


class Seeds(BaseModel):
    """Seeds of one evaluation; the defaults are lmms-eval's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: Seed = 0
    numpy: Seed = 1234
    torch: Seed = 1234
    fewshot: Seed = 1234


class EvaluationRequest(BaseModel):
    """One evaluation as it was asked for; it holds names of secrets, never a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="registered model: models:/NAME/VERSION or models:/NAME@ALIAS")
    adapter: Identifier | None = Field(None, description="lmms-eval model type, for a model that is not registered")
    model_args: Arguments = Field(
        default_factory=dict, description="adapter arguments; with a registered model they add to its own"
    )
    tasks: Annotated[tuple[TaskName, ...], BeforeValidator(_names)] = Field((), description="tasks, groups or tags")
    suite: Identifier | None = Field(None, description="name under which the tasks are shown together")
    limit: int | None = Field(None, ge=1, le=_MOST_DOCUMENTS, description="documents per task; none: all")
    offset: int = Field(0, ge=0, le=_MOST_DOCUMENTS, description="documents to leave out at the start")
    batch_size: int = Field(1, ge=1, le=4096)
    num_fewshot: int | None = Field(None, ge=0, le=1000)
    seeds: Seeds = Field(default_factory=Seeds)
    gen_kwargs: Arguments = Field(default_factory=dict, description="generation arguments")
    repeats: int | None = Field(None, ge=1, le=1000, description="answers per document")
    gpus: int | None = Field(None, ge=0, le=64, description="GPUs; none: what the model needs")
    priority: Priority = "normal"
    secrets: Annotated[tuple[SecretName, ...], BeforeValidator(_names)] = Field(
        (), description="environment variables or secret files of the worker's box, by name"
    )
    environment: Identifier | None = Field(None, description="evaluation environment that a box must offer")
    smoke: int | None = Field(None, ge=1, le=100, description="run only so many samples, to look at them")
    experiment: Title | None = None
    run_name: Title | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model is None) == (self.adapter is None):
            raise ValueError(
                "give either model (models:/NAME/VERSION or models:/NAME@ALIAS) or adapter, and not both"
            )
        if self.model is not None and not _REGISTRY_URI.fullmatch(self.model):
            raise ValueError(f"model must look like models:/NAME/3 or models:/NAME@alias, got {self.model!r}")
        if not self.tasks and self.suite is None:
            raise ValueError("name at least one task, for example tasks=digits_vqa")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("a task is named twice")
        if self.smoke is not None and self.limit is not None:
            raise ValueError("smoke sets the limit itself: give one of smoke and limit")
        refuse_secrets(self.model_args)
        refuse_secrets(self.gen_kwargs)
        return self

    @property
    def effective_limit(self) -> int | None:
        """Documents per task that are run, with `smoke` taken into account; none: all."""
        return self.smoke or self.limit

    @property
    def partial(self) -> bool:
        """Whether only a part of each task is run, so that its score is no score of the benchmark."""
        return self.effective_limit is not None or self.offset > 0

    @staticmethod
    def parse(mapping: Mapping[str, Any]) -> EvaluationRequest:
        """Check `mapping` and return the request.

        Raises:
            InvalidRequestError: with every problem, each with the field, what was expected and what came.
        """
        if not isinstance(mapping, Mapping):
            raise InvalidRequestError(f"a request is a mapping of fields, got {type(mapping).__name__}")
        try:
            return EvaluationRequest.model_validate({k: v for k, v in mapping.items() if v is not None})
        except ValidationError as error:
            raise InvalidRequestError("; ".join(_problem(item) for item in error.errors())) from None


def problems_by_field(mapping: Mapping[str, Any]) -> dict[str, str]:
    """The problems of a request by field name (``""`` for those of the whole), for a form; empty when it is sound."""
    try:
        EvaluationRequest.model_validate({k: v for k, v in mapping.items() if v is not None})
    except ValidationError as error:
        return {str(item["loc"][0]) if item["loc"] else "": _reason(item) for item in error.errors()}
    return {}


def _reason(item: Any) -> str:
    return str(item["msg"]).removeprefix("Value error, ")


def _problem(item: Any) -> str:
    if not item["loc"]:
        return _reason(item)
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{where}: no such field; a request has {', '.join(EvaluationRequest.model_fields)}"
    return f"{where}: {_reason(item)}, got {str(item['input'])[:80]!r}"
