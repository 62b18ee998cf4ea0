"""A registered model's files on a box: downloaded once, complete or not there, whatever is killed meanwhile."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from mlflow_lmms.errors import StorageFullError, UnavailableError
from mlflow_lmms.work_order import ResolvedModel
from worker.registered_model import model_folder

SERVER = "http://127.0.0.1:1"
DEADLINE_S = 60


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.bin", "b.bin", "sub/c.bin"):
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def model(source: Path) -> ResolvedModel:
    return ResolvedModel(
        label="m v3", name="m", version="3", adapter="a", model_args={}, gpus=0, artifact_uri=f"file://{source}",
        artifact_argument="path",
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def watched(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Call `before` with the path of each file that MLflow is about to download."""
    download: Any = LocalArtifactRepository.download_artifacts

    def watching(self: Any, artifact_path: str, dst_path: str | None = None) -> str:
        before(artifact_path)
        return str(download(self, artifact_path, dst_path))

    monkeypatch.setattr(LocalArtifactRepository, "download_artifacts", watching)


def test_the_files_are_there_as_they_were_and_progress_is_told(source: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = model_folder(
        model(source), tmp_path / "box", SERVER, tell=lambda done, total: told.append((done, total))
    )
    assert files(folder) == files(source)
    assert told[0] == (0, 19_000)
    shutil.rmtree(source)
    assert model_folder(model(source), tmp_path / "box", SERVER) == folder


def test_a_killed_download_goes_on_with_the_missing_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    reached, never = context.Event(), context.Event()

    def stick(path: str) -> None:
        if path == "b.bin":
            reached.set()
            never.wait(DEADLINE_S)

    with monkeypatch.context() as patch:
        watched(patch, stick)
        process = context.Process(target=model_folder, args=(model(source), tmp_path / "box", SERVER))
        process.start()
        assert reached.wait(DEADLINE_S)
        assert process.pid is not None
        process.kill()
        process.join(DEADLINE_S)
        assert process.exitcode == -signal.SIGKILL
    models = tmp_path / "box" / "models"
    assert [path.name[:10] for path in models.iterdir() if not path.name.startswith(".")] == []
    asked: list[str] = []
    watched(monkeypatch, asked.append)
    folder = model_folder(model(source), tmp_path / "box", SERVER)
    assert sorted(asked) == ["b.bin", "sub/c.bin"], "a.bin was there"
    assert files(folder) == files(source)
    assert [path for path in models.iterdir() if path != folder] == [], "something of the killed download was left"


def test_two_at_once_are_one_download(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    reached, go_on, waited = context.Event(), context.Event(), context.Event()
    asked = context.Queue()

    def stick(path: str) -> None:
        asked.put(path)
        reached.set()
        go_on.wait(DEADLINE_S)

    def tell(done: int, total: int) -> None:
        if not total:
            waited.set()

    def second() -> None:
        model_folder(model(source), tmp_path / "box", SERVER, tell=tell)

    watched(monkeypatch, stick)
    processes = [context.Process(target=model_folder, args=(model(source), tmp_path / "box", SERVER))]
    processes[0].start()
    assert reached.wait(DEADLINE_S)
    processes.append(context.Process(target=second))
    processes[1].start()
    assert waited.wait(DEADLINE_S), "the second did not wait"
    go_on.set()
    deadline = time.monotonic() + DEADLINE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        assert process.exitcode == 0
    found = sorted(asked.get(timeout=5) for _ in range(3))
    assert found == ["a.bin", "b.bin", "sub/c.bin"] and asked.empty()


def test_a_disk_that_is_too_small_is_told_before_the_download(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    watched(monkeypatch, asked.append)
    with pytest.raises(StorageFullError, match=r"m v3 needs 0.0 MB more, and .* are to stay free"):
        model_folder(model(source), tmp_path / "box", SERVER, reserve=10**18)
    assert asked == []


def test_a_model_without_files_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"m v3 cannot be downloaded from .*: there is no file"):
        model_folder(model(tmp_path / "nowhere"), tmp_path / "box", SERVER)
    assert list((tmp_path / "box" / "models").iterdir()) == []
