"""The server reads and writes artifacts of runs itself: local folders, proxied roots, and S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.server import handlers
from moto import mock_aws

from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from plugin_ui.artifact_files import ArtifactFiles

BUCKET = "lmms-artifacts"


@pytest.fixture
def run(mlflow_client: MlflowClient, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run whose artifacts clients reach only through the server; the process has MLflow's server variables."""
    for name in ("_tracking_store", "_artifact_repo"):
        monkeypatch.setattr(handlers, name, None)
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", mlflow_uri)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    experiment = mlflow_client.create_experiment("proxied", artifact_location="mlflow-artifacts:/1")
    yield mlflow_client.create_run(experiment).info.run_id


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(tmp_path / "stored"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", f"s3://{BUCKET}/root")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield


@pytest.fixture(params=["local", "s3"])
def destination(request: pytest.FixtureRequest) -> str:
    """Where the artifacts lie."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture
def files() -> Iterator[ArtifactFiles]:
    found = ArtifactFiles()
    yield found
    found.close()


def write(folder: Path, text: str) -> Path:
    file = folder / "note.txt"
    file.write_text(text)
    return file


def test_what_is_stored_is_fetched(files: ArtifactFiles, run: str, destination: str, tmp_path: Path) -> None:
    files.store(run, write(tmp_path, "first"), "lmms/samples")
    fetched = files.fetch(run, "lmms/samples/note.txt")
    assert fetched.read_text() == "first"
    assert files.fetch(run, "lmms/samples/note.txt") == fetched
    assert (tmp_path / "stored" in fetched.parents) is (destination == "local"), "a local file is not copied"
    files.store(run, write(tmp_path, "second"), "lmms/samples")
    assert files.fetch(run, "lmms/samples/note.txt").read_text() == "second"


def test_what_does_not_exist_is_said(files: ArtifactFiles, run: str, destination: str) -> None:
    with pytest.raises(NotFoundError):
        files.fetch(run, "lmms/none.txt")
    with pytest.raises(NotFoundError):
        files.fetch("0" * 32, "lmms/none.txt")


@pytest.mark.parametrize("path", ["../../mlflow.db", "/etc/passwd", "lmms/../../x", "lmms/%2e%2e/%2e%2e/x", ""])
def test_no_path_leaves_the_run(files: ArtifactFiles, run: str, local: None, path: str) -> None:
    with pytest.raises((InvalidRequestError, NotFoundError)):
        files.fetch(run, path)


def test_copies_are_few_and_fetched_again_in_time(
    files: ArtifactFiles, run: str, s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("plugin_ui.artifact_files.time.monotonic", lambda: now[0])
    for number in range(70):
        files.store(run, write(tmp_path, str(number)), f"lmms/{number}")
        assert files.fetch(run, f"lmms/{number}/note.txt").read_text() == str(number)
    kept = [file for file in files.folder.rglob("*") if file.is_file()]
    assert len(kept) == 64
    boto3.client("s3").put_object(Bucket=BUCKET, Key=_key(run, "lmms/69/note.txt"), Body=b"changed elsewhere")
    assert files.fetch(run, "lmms/69/note.txt").read_text() == "69"
    now[0] = 61.0
    assert files.fetch(run, "lmms/69/note.txt").read_text() == "changed elsewhere"


def _key(run: str, path: str) -> str:
    found = boto3.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    return next(str(item["Key"]) for item in found if item["Key"].endswith(f"{run}/artifacts/{path}"))
