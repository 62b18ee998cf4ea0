"""Models in a real Model Registry: registered with what lmms-eval needs, found again by version and alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core_services import look_models_up_at
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_lmms.adapters import WITHOUT_GPU
from mlflow_lmms.errors import InvalidRequestError, NotFoundError, UnavailableError
from mlflow_lmms.registry import (
    ModelDescription,
    ModelTag,
    default_gpus,
    evaluable_models,
    find_version,
    register_model,
    resolve_model,
)
from mlflow_lmms.request import EvaluationRequest


@pytest.fixture(scope="module")
def client(shared_mlflow: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{shared_mlflow}")


@pytest.fixture(autouse=True)
def _stand_beside_the_store(shared_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared_mlflow.parent)  # MLflow makes artifact folders where it stands
    look_models_up_at(f"sqlite:///{shared_mlflow}", monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_text("weights")
    (folder / "sub" / "config.json").write_text("{}")
    return folder


def request(model: str, **fields: Any) -> EvaluationRequest:
    return EvaluationRequest.parse({"model": model, "tasks": "t", **fields})


def test_a_model_with_files_is_stored_and_resolved(client: MlflowClient, files: Path, tmp_path: Path) -> None:
    description = ModelDescription(adapter="digits", model_args={"dtype": "float16"}, files=files, gpus=0)
    version = register_model(client, "with files", description)
    resolved = resolve_model(client, request("models:/with files/1", model_args={"batch": "2"}))
    assert (resolved.label, resolved.version, resolved.adapter) == ("with files v1", "1", "digits")
    assert resolved.registered
    assert resolved.model_args == {"dtype": "float16", "batch": "2"}
    assert (resolved.gpus, resolved.artifact_argument) == (0, "path")
    assert resolved.content == version.tags[ModelTag.CONTENT]
    source = Path(str(resolved.artifact_uri).removeprefix("file://"))
    assert (source / "weights.bin").read_text() == "weights"
    assert (source / "sub" / "config.json").read_text() == "{}"
    about = json.loads((source / "lmms_model.json").read_text())
    assert (about["name"], about[ModelTag.ADAPTER]) == ("with files", "digits")


def test_versions_count_up_and_the_requests_arguments_win(client: MlflowClient) -> None:
    for dtype in ("float16", "bfloat16"):
        register_model(client, "counted", ModelDescription(adapter="qwen2_5_vl", model_args={"dtype": dtype}))
    resolved = resolve_model(client, request("models:/counted/2", model_args="dtype=float32", gpus=4))
    assert (resolved.label, resolved.model_args, resolved.gpus) == ("counted v2", {"dtype": "float32"}, 4)
    assert resolved.artifact_uri is None
    assert resolved.artifact_argument is None
    assert resolve_model(client, request("models:/counted/1")).gpus == 1


def test_a_checkpoint_stays_where_it_is(client: MlflowClient, files: Path) -> None:
    description = ModelDescription(adapter="llava", checkpoint=files, step=500)
    version = register_model(client, "checkpoint", description)
    assert version.tags[ModelTag.STEP] == "500"
    assert version.tags[ModelTag.CHECKPOINT] == str(files)
    resolved = resolve_model(client, request("models:/checkpoint/1"))
    assert resolved.model_args == {"pretrained": str(files)}
    assert resolved.artifact_uri is None
    assert resolved.content == version.tags[ModelTag.CONTENT]


def test_everything_that_is_said_of_a_model_is_kept(client: MlflowClient) -> None:
    training = client.create_run(client.create_experiment("training")).info.run_id
    description = ModelDescription(
        adapter="qwen2_5_vl",
        model_args={"pretrained": "org/m", "revision": "abc"},
        parameters=7_000_000_000,
        dtype="bfloat16",
        modalities=("text", "video"),
        environment="vllm",
        parent_run=training,
        gpus=2,
    )
    tags = register_model(client, "described", description).tags
    assert tags[ModelTag.PARAMETERS] == "7000000000"
    assert tags[ModelTag.DTYPE] == "bfloat16"
    assert tags[ModelTag.MODALITIES] == "text,video"
    assert tags[ModelTag.REVISION] == "abc"
    resolved = resolve_model(client, request("models:/described/1"))
    assert (resolved.gpus, resolved.environment, resolved.parent_run_id) == (2, "vllm", training)
    assert resolved.content == "abc"
    assert resolve_model(client, request("models:/described/1", environment="hf")).environment == "hf"


def test_an_alias_follows_its_version(client: MlflowClient) -> None:
    for number in (1, 2):
        register_model(client, "aliased", ModelDescription(adapter="dummy", model_args={"n": str(number)}))
    client.set_registered_model_alias("aliased", "champion", "1")
    assert resolve_model(client, request("models:/aliased@champion")).label == "aliased v1"
    client.set_registered_model_alias("aliased", "champion", "2")
    assert resolve_model(client, request("models:/aliased@champion")).label == "aliased v2"


def test_what_is_not_there_is_answered_with_what_is(client: MlflowClient) -> None:
    for _ in range(10):
        register_model(client, "ten", ModelDescription(adapter="dummy"))
    with pytest.raises(NotFoundError, match="'ten' has the versions 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"):
        find_version(client, "models:/ten/11")
    with pytest.raises(InvalidRequestError, match="expected models:/NAME/VERSION"):
        find_version(client, f"models:/ten/{'9' * 20}")
    with pytest.raises(NotFoundError, match="'ten' has the versions"):
        find_version(client, "models:/ten@nobody")
    with pytest.raises(NotFoundError, match=r"it holds .*ten"):
        find_version(client, "models:/o'brien/1")
    client.delete_model_version("ten", "3")
    with pytest.raises(NotFoundError):
        find_version(client, "models:/ten/3")


def test_an_empty_registry_says_how_to_begin(mlflow_client: MlflowClient) -> None:
    with pytest.raises(NotFoundError, match="it is empty: `mlflow-lmms model register"):
        find_version(mlflow_client, "models:/a/1")
    assert evaluable_models(mlflow_client) == []


def test_only_models_that_lmms_eval_can_load_are_offered(mlflow_client: MlflowClient) -> None:
    for name in ("b", "a", "b"):
        register_model(mlflow_client, name, ModelDescription(adapter="dummy"))
    mlflow_client.create_registered_model("plain")
    mlflow_client.create_model_version("plain", source="file:///nowhere")
    offered = [(version.name, str(version.version)) for version in evaluable_models(mlflow_client)]
    assert offered == [("a", "1"), ("b", "2"), ("b", "1")]


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", " a", "a" * 101])
def test_a_bad_name_is_refused(client: MlflowClient, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="a model's name"):
        register_model(client, name, ModelDescription(adapter="dummy"))


def test_a_model_with_a_secret_is_refused(client: MlflowClient) -> None:
    with pytest.raises(InvalidRequestError, match="secrets=NAME") as caught:
        register_model(client, "secret", ModelDescription(adapter="dummy", model_args={"api_key": "geheim"}))
    assert "geheim" not in caught.value.message
    with pytest.raises(MlflowException):
        client.get_registered_model("secret")


@pytest.mark.parametrize(
    "tags",
    [
        {ModelTag.ARGUMENTS: "pretrained=a"},
        {ModelTag.ARGUMENTS: "[1]"},
        {ModelTag.ARGUMENTS: '{"a": 1}'},
        {ModelTag.ARGUMENTS: "[" * 50_000},
        {ModelTag.GPUS: "all"},
        {ModelTag.GPUS: "-5"},
        {ModelTag.GPUS: "9" * 24},
        {ModelTag.ADAPTER: "../x;rm"},
        {ModelTag.ARTIFACT_ARGUMENT: "a,trust_remote_code=True"},
        {ModelTag.ENVIRONMENT: "../x"},
    ],
)
def test_tags_that_somebody_spoiled_are_named(client: MlflowClient, tags: dict[str, str]) -> None:
    version = register_model(client, "spoiled", ModelDescription(adapter="dummy"))
    for key, value in tags.items():
        client.set_model_version_tag("spoiled", version.version, key, value)
    with pytest.raises(InvalidRequestError, match=r"lmms\.model_args is a JSON object"):
        resolve_model(client, request(f"models:/spoiled/{version.version}"))


def test_an_absent_registry_is_told_apart_from_an_absent_model() -> None:
    class Away(MlflowClient):
        def get_model_version(self, name: str, version: str) -> Any:
            raise MlflowException("connection refused")

    with pytest.raises(UnavailableError, match="does not answer: connection refused"):
        find_version(Away.__new__(Away), "models:/a/1")


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        ("pretrained=org/m,model=x", "org/m"),
        ("model=gpt-4o", "gpt-4o"),
        ("model_version=v9", "v9"),
        ("", "dummy"),
    ],
)
def test_a_model_without_version_is_called_by_its_arguments(client: MlflowClient, arguments: str, label: str) -> None:
    resolved = resolve_model(
        client, EvaluationRequest.parse({"adapter": "dummy", "tasks": "t", "model_args": arguments})
    )
    assert (resolved.label, resolved.version, resolved.registered) == (label, None, False)


def test_models_that_compute_elsewhere_hold_no_gpu() -> None:
    assert default_gpus("openai_compatible") == default_gpus("dummy") == 0
    assert default_gpus("qwen2_5_vl") == 1


@pytest.mark.lmms_eval
def test_the_adapters_without_gpu_are_lmms_evals_own_with_all_their_names() -> None:
    from lmms_eval.models import MODEL_ALIASES, list_available_models

    names = {"dummy", "openai", "async_openai", "litellm", "gemini", "claude", "reka", "from_log"}
    every_name = names | {alias for name in names for alias in MODEL_ALIASES.get(name, ())}
    assert {name for name in every_name if default_gpus(name)} == set()
    without = {name for name in list_available_models(include_aliases=True) if not default_gpus(name)}
    assert without == WITHOUT_GPU
