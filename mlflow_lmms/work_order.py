"""What the server hands to a worker that has claimed a part: all that it takes to run it, nothing secret. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from mlflow_lmms.request import ArgumentText, Errored, Identifier, Seeds

#: Version of the worker API; the server takes this one and the one before.
PROTOCOL = 2

ArgumentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]


class ResolvedModel(BaseModel):
    """A model as lmms-eval is to load it.

    `artifact_uri` is set for a registered version with files of its own: the worker downloads it and puts the
    path into the argument named `artifact_argument`. `parameters`, `dtype` and `gpu_memory_gb` (on each GPU) are what
    its tags say of its size.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    name: str
    version: str | None
    adapter: Identifier
    model_args: dict[ArgumentText, ArgumentText]
    gpus: int = Field(ge=0, le=64)
    artifact_uri: str | None = None
    artifact_argument: ArgumentName | None = None
    parent_run_id: str | None = None
    logged_model_id: str | None = None
    content: str | None = None
    environment: Identifier | None = None
    parameters: int | None = None
    dtype: str | None = None
    gpu_memory_gb: float | None = None

    @property
    def registered(self) -> bool:
        """Whether the model is a version in the Model Registry."""
        return self.version is not None


class Use(BaseModel):
    """What an attempt used of its GPUs, as far as it is known; memory in bytes, utilisation in percent."""

    model_config = ConfigDict(frozen=True)

    gpu_seconds: float = Field(0.0, ge=0)
    peak_memory: int | None = Field(None, ge=0)
    mean_utilisation: float | None = Field(None, ge=0)
    energy_j: float | None = Field(None, ge=0)


class WorkOrder(BaseModel):
    """One part of a run, ready to be run by the box that claimed it. A field added later has a default.

    `primary`, `dimensions` and `errored` are the request's over its suite's; `groups` are the definitions of
    lmms-eval's groups whose members the run has (`mlflow_lmms.reading.group_scores.GroupDefinition`).
    A rescore scores the answers of an earlier attempt again, without a model.
    `no_progress_s` and `phase_deadlines_s` are by phase of the runner (``other``: every phase that is not named).
    """

    model_config = ConfigDict(frozen=True)

    protocol: int = PROTOCOL
    run_id: str
    experiment_id: str
    part: str
    token: int
    attempt: int
    tasks: tuple[str, ...]
    all_tasks: tuple[str, ...]
    model: ResolvedModel
    task_folders: tuple[str, ...]
    limit: int | None
    offset: int
    batch_size: int
    num_fewshot: int | None
    seeds: Seeds
    gen_kwargs: str | None
    repeats: int | None
    secrets: tuple[str, ...]
    environment: str | None
    chunk_size: int
    thumbnail_bytes: int
    deadline_s: float
    trust_remote_code: bool = False
    primary: dict[str, str] = {}
    dimensions: dict[str, tuple[str, ...]] = {}
    errored: Errored = Errored()
    groups: tuple[dict[str, Any], ...] = ()
    launch: Literal["auto", "single", "data-parallel"] = "auto"
    rescore: bool = False
    no_progress_s: dict[str, float] = {}
    phase_deadlines_s: dict[str, float] = {}
    checkpoint: bool = False
