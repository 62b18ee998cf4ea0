"""Boxes that share a download cache know it by one id."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from worker.cache_identity import cache_id, hub_cache


def test_who_sees_the_same_folder_has_the_same_id(tmp_path: Path) -> None:
    shared = {"HF_HOME": str(tmp_path / "a")}
    first = cache_id(shared)
    assert first
    assert cache_id({"HF_HUB_CACHE": str(tmp_path / "a" / "hub")}) == first
    assert cache_id({"HF_HOME": str(tmp_path / "b")}) != first
    assert [path.name for path in (tmp_path / "a" / "hub").iterdir()] == [".mlflow-lmms-cache"]


def test_boxes_that_come_at_the_same_time_agree(tmp_path: Path) -> None:
    found: list[str] = []
    together = threading.Barrier(8)

    def come() -> None:
        together.wait()
        found.append(cache_id({"HF_HOME": str(tmp_path)}))

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0]


def test_a_folder_that_cannot_be_made_has_no_id(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cache_id({"HF_HOME": str(tmp_path / "file")}) == ""


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HF_HUB_CACHE": "/x", "HF_HOME": "/y"}, "/x"),
        ({"HF_HOME": "/y", "HOME": "/h"}, "/y/hub"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
    ],
)
def test_the_folder_is_that_of_the_libraries(environ: dict[str, str], folder: str) -> None:
    assert hub_cache(environ) == Path(folder)
