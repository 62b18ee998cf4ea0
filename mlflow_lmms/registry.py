"""Models in MLflow's Model Registry: registering one with all that lmms-eval needs, and resolving it again.

A version made here is an MLflow logged model whose artifacts are ``lmms_model.json`` and, for a model with files of
its own, those files. What lmms-eval needs stands in the version's tags.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict

from mlflow_lmms.adapters import WITHOUT_GPU
from mlflow_lmms.errors import InvalidRequestError, NotFoundError, UnavailableError
from mlflow_lmms.model_arguments import refuse_secrets
from mlflow_lmms.model_files import describe_files
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.work_order import ResolvedModel

EXPERIMENT = "lmms-models"
_DESCRIPTION = "lmms_model.json"
_LABEL_LIMIT = 200
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[0-9]{1,9})|@(?P<alias>[A-Za-z0-9_\-]+))")


class ModelTag:
    """Keys of a model version's tags."""

    ADAPTER = "lmms.adapter"
    ARGUMENTS = "lmms.model_args"
    ARTIFACT_ARGUMENT = "lmms.artifact_argument"
    REVISION = "lmms.revision"
    CONTENT = "lmms.content"
    PARAMETERS = "lmms.parameters"
    DTYPE = "lmms.dtype"
    MODALITIES = "lmms.modalities"
    ENVIRONMENT = "lmms.environment"
    PARENT_RUN = "lmms.parent_run"
    STEP = "lmms.step"
    GPUS = "lmms.gpus"
    GPU_MEMORY = "lmms.gpu_memory_gb"
    CHECKPOINT = "lmms.checkpoint"
    LOGGED_MODEL = "lmms.logged_model"


class ModelDescription(BaseModel):
    """A model as its owner describes it; what can be read from its files may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    model_args: dict[str, str] = {}
    files: Path | None = None
    artifact_argument: str = "path"
    checkpoint: Path | None = None
    step: int | None = None
    revision: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    modalities: tuple[str, ...] = ()
    environment: str | None = None
    parent_run: str | None = None
    gpus: int | None = None
    gpu_memory_gb: float | None = None


def register_model(client: MlflowClient, name: str, description: ModelDescription) -> ModelVersion:
    """Make a new version of the registered model `name` and return it.

    `description.files` are uploaded with the version; `description.checkpoint` stays where it is (a folder that
    the GPU boxes can read) and is known by the hash of its content.

    Raises:
        InvalidRequestError: a bad name, a missing folder, an argument with a secret.
        UnavailableError: the MLflow server does not answer.
    """
    if not re.fullmatch(r"[^/:@\s][^/:@]{0,99}", name):
        raise InvalidRequestError(f"a model's name has no '/', ':' or '@' and at most 100 characters, got {name!r}")
    refuse_secrets(description.model_args)
    tags = _tags(description)
    try:
        return _create_version(client, name, description, tags)
    except MlflowException as error:
        raise UnavailableError(f"model {name!r} could not be registered: {error.message}") from None


def _tags(description: ModelDescription) -> dict[str, str]:
    files = describe_files(description.files or description.checkpoint)
    arguments = dict(description.model_args)
    if description.checkpoint is not None:
        arguments.setdefault("pretrained", str(description.checkpoint.absolute()))
    values = {
        ModelTag.ADAPTER: description.adapter,
        ModelTag.ARGUMENTS: json.dumps(arguments, sort_keys=True),
        ModelTag.ARTIFACT_ARGUMENT: description.artifact_argument if description.files is not None else None,
        ModelTag.REVISION: description.revision or arguments.get("revision"),
        ModelTag.CONTENT: files.sha256,
        ModelTag.PARAMETERS: description.parameters or files.parameters,
        ModelTag.DTYPE: description.dtype or arguments.get("dtype") or files.dtype,
        ModelTag.MODALITIES: ",".join(description.modalities or files.modalities),
        ModelTag.ENVIRONMENT: description.environment,
        ModelTag.PARENT_RUN: description.parent_run,
        ModelTag.STEP: description.step,
        ModelTag.GPUS: description.gpus,
        ModelTag.GPU_MEMORY: description.gpu_memory_gb,
        ModelTag.CHECKPOINT: description.checkpoint.absolute() if description.checkpoint is not None else None,
    }
    return {key: str(value) for key, value in values.items() if value not in (None, "")}


def _create_version(
    client: MlflowClient, name: str, description: ModelDescription, tags: dict[str, str]
) -> ModelVersion:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    logged = client.create_logged_model(
        experiment_id,
        name=re.sub(r"[^\w\- ]", "-", name),
        source_run_id=description.parent_run,
        tags=tags,
        params=description.model_args,
        model_type="lmms-eval",
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _DESCRIPTION).write_text(json.dumps({"name": name, **tags}, indent=1), encoding="utf-8")
        client.log_model_artifacts(logged.model_id, folder)
    if description.files is not None:
        client.log_model_artifacts(logged.model_id, str(description.files))
    logged = client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    return client.create_model_version(
        name,
        source=logged.artifact_location,
        # The server takes the version's source run from the logged model, which it looks up at its own tracking URI.
        model_id=logged.model_id,
        tags={**tags, ModelTag.LOGGED_MODEL: logged.model_id},
    )


def resolve_model(client: MlflowClient, request: EvaluationRequest) -> ResolvedModel:
    """The model of a request as lmms-eval is to load it.

    Raises:
        NotFoundError: no such registered model, version or alias.
        InvalidRequestError: a version that does not say how lmms-eval loads it.
    """
    if request.model is None:
        return _unregistered(request)
    version = find_version(client, request.model)
    if ModelTag.ADAPTER not in version.tags:
        raise InvalidRequestError(
            f"{request.model} does not say how lmms-eval loads it: register it with `mlflow-lmms model register "
            f"{version.name} --adapter …`, or set its version tag {ModelTag.ADAPTER}"
        )
    try:
        return _registered(version, request)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError(
            f"{request.model} cannot be loaded as its version tags say: {ModelTag.ARGUMENTS} is a JSON object of "
            f"names and texts, {ModelTag.GPUS} a number from 0 to 64, adapter and environment are plain names; "
            "correct them in MLflow, or register the model again"
        ) from None


def _registered(version: ModelVersion, request: EvaluationRequest) -> ResolvedModel:
    adapter = version.tags[ModelTag.ADAPTER]
    argument = version.tags.get(ModelTag.ARTIFACT_ARGUMENT)
    gpus = request.gpus if request.gpus is not None else version.tags.get(ModelTag.GPUS)
    return ResolvedModel(
        label=f"{version.name} v{version.version}",
        name=version.name,
        version=str(version.version),
        adapter=adapter,
        model_args={**json.loads(version.tags.get(ModelTag.ARGUMENTS, "{}")), **request.model_args},
        environment=request.environment or version.tags.get(ModelTag.ENVIRONMENT),
        gpus=int(gpus) if gpus is not None else default_gpus(adapter),
        artifact_uri=str(version.source) if argument else None,
        artifact_argument=argument,
        parent_run_id=version.tags.get(ModelTag.PARENT_RUN),
        logged_model_id=version.tags.get(ModelTag.LOGGED_MODEL),
        content=version.tags.get(ModelTag.CONTENT) or version.tags.get(ModelTag.REVISION),
        parameters=int(_number(version.tags.get(ModelTag.PARAMETERS)) or 0) or None,
        dtype=version.tags.get(ModelTag.DTYPE),
        gpu_memory_gb=_number(version.tags.get(ModelTag.GPU_MEMORY)),
    )


def _number(text: str | None) -> float | None:
    """A tag that somebody may have written by hand; what is no positive number says nothing."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _unregistered(request: EvaluationRequest) -> ResolvedModel:
    assert request.adapter is not None, "a request has a model or an adapter"
    arguments = request.model_args
    name = arguments.get("pretrained") or arguments.get("model") or arguments.get("model_version") or request.adapter
    if len(name) > _LABEL_LIMIT:
        name = f"…{name[1 - _LABEL_LIMIT :]}"
    return ResolvedModel(
        label=name,
        name=name,
        version=None,
        adapter=request.adapter,
        model_args=dict(arguments),
        environment=request.environment,
        gpus=request.gpus if request.gpus is not None else default_gpus(request.adapter),
    )


def default_gpus(adapter: str) -> int:
    """GPUs that a model of this adapter needs when nobody says: none for an API or toy model, else one."""
    return 0 if adapter in WITHOUT_GPU else 1


def find_version(client: MlflowClient, uri: str) -> ModelVersion:
    """The model version behind ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        NotFoundError: naming what there is.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidRequestError(f"expected models:/NAME/VERSION or models:/NAME@ALIAS, got {uri!r}")
    try:
        if match["alias"]:
            return client.get_model_version_by_alias(match["name"], match["alias"])
        return client.get_model_version(match["name"], match["version"])
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UnavailableError(f"the Model Registry does not answer: {error.message}") from None
        raise NotFoundError(f"{uri} is not in the Model Registry; {_what_there_is(client, match['name'])}") from None


def _what_there_is(client: MlflowClient, name: str) -> str:
    versions = client.search_model_versions(f"name = '{name.replace(chr(39), '')}'", max_results=20)
    if versions:
        return f"{name!r} has the versions {', '.join(sorted((str(v.version) for v in versions), key=int))}"
    names = [model.name for model in client.search_registered_models(max_results=20)]
    return f"it holds {', '.join(names)}" if names else "it is empty: `mlflow-lmms model register NAME --adapter …`"


def evaluable_models(client: MlflowClient) -> list[ModelVersion]:
    """Every version that says how lmms-eval loads it, by name and newest version first."""
    versions = client.search_model_versions(f"tag.`{ModelTag.ADAPTER}` LIKE '%'", max_results=1000)
    return sorted(versions, key=lambda version: (version.name, -int(version.version)))
