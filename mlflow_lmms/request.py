"""What a user asks for: one model, some tasks, and how to run them. Pure: values in, a checked value out."""

from __future__ import annotations

import re
import reprlib
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


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = [item.partition("=") for item in text.split(",") if item.strip()]
    if wrong := [name for name, equals, choice in pairs if not (equals and name.strip() and choice.strip())]:
        raise ValueError(f"expected TASK=CHOICE, separated by commas, got {wrong[0].strip()[:80]!r}")
    return [(name.strip(), choice.strip()) for name, _, choice in pairs]


def _one_by_task(value: Any) -> Any:
    """Take ``"task=choice,other=choice"`` as well as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = _pairs(value)
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a task is named twice")
    return dict(pairs)


def _several_by_task(value: Any) -> Any:
    """Take ``"task=one,task=two"`` as well as a mapping to lists."""
    if not isinstance(value, str):
        return value
    found: dict[str, list[str]] = {}
    for name, choice in _pairs(value):
        found.setdefault(name, []).append(choice)
    return found


def _policy(value: Any) -> Any:
    """Take ``"drop"`` and ``"drop:0.05"`` as well as a mapping."""
    if not isinstance(value, str):
        return value
    policy, colon, share = value.partition(":")
    return {"policy": policy.strip(), **({"fail_above": share.strip()} if colon else {})}


TaskName = Annotated[str, StringConstraints(pattern=r"^[^\s,/\\][^\n,/\\]{0,249}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,100}$")]
#: What a database takes (PostgreSQL no NUL, none a lone surrogate), and what MLflow keeps of a param.
ArgumentText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=6000)]
Arguments = Annotated[dict[ArgumentText, ArgumentText], BeforeValidator(_arguments)]
Title = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", max_length=250)
]
#: A metric, or a metric and a filter after a colon.
MetricChoice = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f,]{1,200}$")]
DimensionName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
Dimensions = Annotated[tuple[DimensionName, ...], Field(min_length=1, max_length=50)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no other
GpuType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._\-]{0,59}$")]
BoxName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f/]{1,253}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.=\-]{1,100}$")]
Launch = Literal["auto", "single", "data-parallel"]


class Seeds(BaseModel):
    """Seeds of one evaluation; the defaults are lmms-eval's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: Seed = 0
    numpy: Seed = 1234
    torch: Seed = 1234
    fewshot: Seed = 1234


class Errored(BaseModel):
    """What becomes of samples without a usable answer or judgement.

    They count as lmms-eval scored them, are left out, or count as wrong. With `fail_above` a task fails when a
    larger share of its samples than that is errored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Literal["as_scored", "drop", "wrong"] = "as_scored"
    fail_above: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)


class EvaluationRequest(BaseModel):
    """One evaluation as it was asked for; it holds names of secrets, never a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="registered model: models:/NAME/VERSION or models:/NAME@ALIAS")
    adapter: Identifier | None = Field(None, description="lmms-eval model type, for a model that is not registered")
    model_args: Arguments = Field(
        default_factory=dict, description="adapter arguments; with a registered model they add to its own"
    )
    tasks: Annotated[tuple[TaskName, ...], BeforeValidator(_names)] = Field((), description="tasks, groups or tags")
    suite: Identifier | None = Field(
        None,
        description="a stored suite (NAME or NAME@REVISION), or the name under which the tasks are shown together",
    )
    suite_revision: int | None = Field(None, ge=1, le=10**9, description="revision of the stored suite; none: newest")
    primary: Annotated[dict[TaskName, MetricChoice], BeforeValidator(_one_by_task)] = Field(
        default_factory=dict, description="the metric (METRIC or METRIC:FILTER) that stands for a task"
    )
    dimensions: Annotated[dict[TaskName, Dimensions], BeforeValidator(_several_by_task)] = Field(
        default_factory=dict, description="slice dimensions of a task that are always reported"
    )
    errored: Annotated[Errored | None, BeforeValidator(_policy)] = Field(
        None, description="errored samples: as_scored, drop or wrong, and after a colon the share that fails a task"
    )
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
    gpu_type: GpuType | None = Field(None, description="words of the GPU's name, such as H100 or A100 80GB")
    labels: Annotated[tuple[Label, ...], Field(max_length=20), BeforeValidator(_names)] = Field(
        (), description="labels that a box must have"
    )
    box: BoxName | None = Field(None, description="the one box that may run it")
    gpu_memory_gb: float | None = Field(
        None, gt=0, le=2000, allow_inf_nan=False, description="memory on each GPU, in GB; none: estimated"
    )
    launch: Launch = Field(
        "auto", description="several GPUs: one process with all (single) or one process each (data-parallel)"
    )
    max_parts: int | None = Field(None, ge=1, le=64, description="most parts that the tasks may be spread over")
    smoke: int | None = Field(None, ge=1, le=100, description="run only so many samples, to look at them")
    experiment: Title | None = None
    run_name: Title | None = None

    @model_validator(mode="before")
    @classmethod
    def _suite_with_revision(cls, given: Any) -> Any:
        """Take ``suite="NAME@3"``."""
        if not isinstance(given, Mapping) or not isinstance(given.get("suite"), str) or "@" not in given["suite"]:
            return given
        name, _, revision = given["suite"].partition("@")
        if str(given.get("suite_revision") or revision) != revision:
            raise ValueError("the suite's revision is given twice")
        return {**given, "suite": name, "suite_revision": revision}

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
        if self.suite_revision is not None and (self.tasks or self.suite is None):
            raise ValueError("a suite's revision says which tasks: give suite=NAME@REVISION and no tasks")
        if self.smoke is not None and self.limit is not None:
            raise ValueError("smoke sets the limit itself: give one of smoke and limit")
        if self.gpus == 0 and (self.gpu_type is not None or self.gpu_memory_gb is not None):
            raise ValueError("gpus=0 asks for no GPU: leave gpu_type and gpu_memory_gb out")
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
    return f"{where}: {_reason(item)}, got {_shown(item['input'])}"


def _shown(value: Any) -> str:
    """A value in short; lists and mappings by their beginning, because they may be of any size."""
    return reprlib.repr(value) if isinstance(value, list | tuple | dict) else repr(str(value)[:80])
