"""Answers so far that another box goes on from: as an artifact of the run, and in a folder that all boxes share."""

from __future__ import annotations

import io
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_lmms.errors import StorageFullError
from mlflow_lmms.names import Artifact
from mlflow_lmms.worker_api_client import HeldPart
from worker.cache_copy import copy_cache, fingerprint
from worker.checkpoint import Checkpoint, CheckpointThread
from worker.shared_cache import SharedCache

Said = list[tuple[str, str]]


class Runs:
    """One MLflow run, and boxes that work on its part."""

    def __init__(self, client: MlflowClient, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.run_id = client.create_run("0").info.run_id
        self.said: Said = []

    def box(self, name: str, token: int, part: str = "0", most_mb: int = 10) -> tuple[Checkpoint, Path]:
        """A box's checkpoints under a token, and its cache."""
        cache = self.folder / name / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        held = HeldPart(self.run_id, part, token)
        return Checkpoint(self.client, held, cache, most_mb, lambda *told: self.said.append(told)), cache

    def stored(self) -> list[str]:
        found = self.client.list_artifacts(self.run_id, Artifact.CHECKPOINT)
        return sorted(entry.path.rpartition("/")[2] for entry in found)


@pytest.fixture
def runs(mlflow_client: MlflowClient, tmp_path: Path) -> Runs:
    return Runs(mlflow_client, tmp_path)


def answer(cache: Path, *answers: str) -> None:
    """Write answers as the runner does."""
    (cache / "mme").mkdir(exist_ok=True)
    with closing(sqlite3.connect(cache / "mme" / "answers.db")) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS answers (text TEXT)")
        database.executemany("INSERT INTO answers VALUES (?)", [(text,) for text in answers])


def answers(cache: Path) -> list[str]:
    with closing(sqlite3.connect(cache / "mme" / "answers.db")) as database:
        return [text for (text,) in database.execute("SELECT text FROM answers")]


def test_another_box_goes_on_from_the_checkpoint(runs: Runs) -> None:
    one, cache = runs.box("one", 3)
    answer(cache, "a", "b")
    assert one.save()
    two, elsewhere = runs.box("two", 5)
    assert two.restore(newer_than=0)
    assert answers(elsewhere) == ["a", "b"]
    assert [level for level, _ in runs.said] == ["INFO"]


def test_only_changes_are_stored(runs: Runs) -> None:
    one, cache = runs.box("one", 3)
    assert not one.save(), "there is nothing yet"
    answer(cache, "a")
    assert one.save()
    assert not one.save()
    answer(cache, "b")
    assert one.save()
    again, elsewhere = runs.box("two", 4)
    assert again.restore(newer_than=0)
    assert answers(elsewhere) == ["a", "b"]
    assert not again.save(), "it has nothing that was not there"


def test_a_stale_worker_neither_overwrites_nor_wins(runs: Runs) -> None:
    stale, old = runs.box("one", 3)
    answer(old, "old")
    newer, new = runs.box("two", 5)
    answer(new, "new")
    assert newer.save()
    assert stale.save()
    assert runs.stored() == ["0.3.tar.gz", "0.5.tar.gz"]
    third, cache = runs.box("three", 7)
    assert third.restore(newer_than=0)
    assert answers(cache) == ["new"]
    stale.remove()
    assert runs.stored() == ["0.5.tar.gz"]


def test_what_lies_on_the_box_stays_when_it_is_newer(runs: Runs) -> None:
    one, cache = runs.box("one", 3)
    answer(cache, "a")
    one.save()
    two, own = runs.box("two", 6)
    answer(own, "own")
    assert not two.restore(newer_than=3)
    assert answers(own) == ["own"]
    assert two.restore(newer_than=2)
    assert answers(own) == ["a"]


def test_older_checkpoints_go_and_other_parts_stay(runs: Runs) -> None:
    other, elsewhere = runs.box("other", 2, part="1")
    answer(elsewhere, "x")
    other.save()
    for token in (3, 4):
        one, cache = runs.box("one", token)
        answer(cache, str(token))
        assert one.save()
        assert runs.stored() == [f"0.{token}.tar.gz", "1.2.tar.gz"]
    one.remove()
    assert runs.stored() == ["1.2.tar.gz"]


def test_one_that_is_too_large_is_told_once_with_the_remedy(runs: Runs) -> None:
    one, cache = runs.box("one", 3, most_mb=0)
    answer(cache, "a")
    assert not one.save()
    answer(cache, "b")
    assert not one.save()
    ((level, message),) = runs.said
    assert level == "WARNING"
    assert "MLFLOW_LMMS_CHECKPOINT_MB" in message
    assert "MLFLOW_LMMS_CACHE_FOLDER" in message
    assert runs.stored() == []


def evil(archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as packed:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 4
        packed.addfile(entry, io.BytesIO(b"evil"))


@pytest.mark.parametrize("damage", [evil, lambda archive: archive.write_bytes(b"\x1f\x8bno archive")])
def test_a_damaged_checkpoint_costs_repeated_work_and_no_more(
    runs: Runs, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    archive = tmp_path / "0.3.tar.gz"
    damage(archive)
    runs.client.log_artifact(runs.run_id, str(archive), Artifact.CHECKPOINT)
    two, cache = runs.box("two", 5)
    answer(cache, "own")
    assert not two.restore(newer_than=0)
    assert answers(cache) == ["own"]
    assert [level for level, _ in runs.said] == ["WARNING"]
    assert list(tmp_path.rglob("escaped")) == []


def test_a_server_that_is_away_stops_nothing(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient("http://127.0.0.1:9")
    cache = tmp_path / "box" / "cache"
    cache.mkdir(parents=True)
    answer(cache, "a")
    lonely = Checkpoint(client, HeldPart(runs.run_id, "0", 3), cache, 10, lambda *told: runs.said.append(told))
    assert not lonely.restore(newer_than=0)
    assert not lonely.save()
    lonely.remove()
    assert answers(cache) == ["a"]


def test_a_checkpoint_is_stored_every_so_often(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    one, cache = runs.box("one", 3)
    saved, save = threading.Event(), one.save
    answer(cache, "a")

    def noted() -> bool:
        if stored := save():
            saved.set()
        return stored

    monkeypatch.setattr(one, "save", noted)
    thread = CheckpointThread(one, 0.02)
    assert not thread.started
    thread.start()
    assert saved.wait(30)
    thread.stop()
    assert runs.stored() == ["0.3.tar.gz"]


def test_a_copy_is_whole_while_somebody_writes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    answer(source, "first")
    (source / "notes.json").write_text("{}")
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            answer(source, "one", "two")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            target = tmp_path / f"copy{number}"
            copy_cache(source, target)
            found = answers(target)
            assert found[0] == "first"
            assert found[1:] == ["one", "two"] * (len(found) // 2)
            assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["answers.db", "notes.json"]
    finally:
        done.set()
        writer.join()
    assert fingerprint(source) == fingerprint(source)
    before = fingerprint(source)
    answer(source, "more")
    assert fingerprint(source) != before


def test_in_a_shared_folder_each_owner_has_a_place_of_its_own(tmp_path: Path) -> None:
    shared = SharedCache(tmp_path, "run", "0")
    first = shared.take_over(3)
    answer(first, "a")
    fenced = sqlite3.connect(first / "mme" / "answers.db")
    second = shared.take_over(5)
    assert second != first
    assert answers(second) == ["a"]
    with suppress(sqlite3.OperationalError), fenced:  # the loser does not know yet
        fenced.execute("INSERT INTO answers VALUES ('late')")
    fenced.close()
    assert answers(second) == ["a"]
    assert [path.name for path in (tmp_path / "run" / "0").iterdir()] == ["5"]
    assert shared.take_over(5) == second
    assert answers(shared.take_over(5)) == ["a"]


def test_a_late_claim_of_a_loser_takes_nothing_away(tmp_path: Path) -> None:
    shared = SharedCache(tmp_path, "run", "0")
    answer(shared.take_over(5), "new")
    answer(shared.take_over(4), "old")
    shared.remove(4)
    assert answers(shared.take_over(6)) == ["new"]
    shared.remove(6)
    assert list(tmp_path.iterdir()) == []


def test_answers_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    shared = SharedCache(tmp_path, "run", "0")
    answer(shared.take_over(3), "good")
    broken = tmp_path / "run" / "0" / "4"
    broken.mkdir()
    (broken / "answers.db").write_bytes(b"SQLite format 3\0 and nothing more")
    assert answers(shared.take_over(5)) == ["good"]


def test_a_shared_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFullError, match="MLFLOW_LMMS_CACHE_FOLDER"):
        SharedCache(tmp_path / "file", "run", "0").take_over(3)
