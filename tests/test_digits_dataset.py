"""The digits benchmark's data: real pictures, fixed splits, and the same documents on every machine and build."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from lmms_digits import GROUP, TASKS, _build, dataset, perturbations, pixels, tasks_folder
from PIL import Image

Row = dict[str, Any]

# What every stored result is paired by: a change here makes all older results incomparable with new ones.
CONTENT = {
    ("digits", "train"): "f5c5ac69a69575d3",
    ("digits", "test"): "10c95ba1228c732b",
    ("sums", "train"): "65c7e240d61b7d16",
    ("sums", "test"): "ca76b9d02e6fafe4",
    ("robust", "train"): "5f445a63b11691a4",
    ("robust", "test"): "ee9a2b93877dcc40",
}
BUILDERS = {"digits": dataset.digit_rows, "sums": dataset.sum_rows, "robust": dataset.robust_rows}


def _content(rows: list[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        plain = {name: _pixels(value) for name, value in row.items()}
        digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _pixels(value: Any) -> Any:
    if isinstance(value, Image.Image):
        return [value.mode, value.size, hashlib.sha256(value.tobytes()).hexdigest()]
    return value


@pytest.mark.parametrize(("name", "split"), CONTENT)
def test_documents_never_change(name: str, split: str) -> None:
    assert _content(BUILDERS[name](split)) == CONTENT[name, split]


def test_two_builds_hold_the_same_bytes(tmp_path: Path) -> None:
    builds = [dataset.prepare_dataset(tmp_path / name) for name in ("one", "two")]
    first, second = ({f.relative_to(b): f.read_bytes() for f in b.rglob("*") if f.is_file()} for b in builds)
    assert first == second
    assert {str(path) for path in first} >= {f"{task}.yaml" for task in (*TASKS, GROUP)}


def test_splits_are_the_first_1200_and_the_other_597() -> None:
    train, test = dataset.digit_rows("train"), dataset.digit_rows("test")
    assert [row["source"] for row in train + test] == list(range(1797))
    assert (len(train), len(test)) == (1200, 597)
    assert (len(dataset.sum_rows("test")), len(dataset.robust_rows("test"))) == (597, 597 * 4)


def test_every_picture_is_added_once_from_each_side() -> None:
    rows = dataset.sum_rows("test")
    assert {row["left_source"] for row in rows} == {row["right_source"] for row in rows} == set(range(1200, 1797))
    assert all(int(row["answer"]) == row["left_digit"] + row["right_digit"] for row in rows)


def test_every_perturbation_meets_every_severity_equally_often() -> None:
    pairs = Counter((row["perturbation"], row["severity"]) for row in dataset.robust_rows("test"))
    assert pairs == {(p, s): 199 for p in perturbations.PERTURBATIONS for s in perturbations.SEVERITIES}
    first = dataset.robust_rows("test")[:12]
    assert len({(row["perturbation"], row["severity"]) for row in first}) == 12, "a small --limit sees every pair"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("digits", ["digit", "ink", "parity"]),
        ("sums", ["left_digit", "right_digit", "carry", "parities"]),
        ("robust", ["digit", "ink", "perturbation", "severity"]),
    ],
)
def test_slice_columns_are_worth_slicing_by(name: str, columns: list[str]) -> None:
    rows = BUILDERS[name]("test")
    for column in columns:
        sizes = Counter(row[column] for row in rows)
        assert 2 <= len(sizes) <= 10
        assert min(sizes.values()) >= 50


def test_a_drawn_grid_is_read_back() -> None:
    grid = np.arange(64, dtype=np.float64).reshape(8, 8) % 17
    read = pixels.read(pixels.draw(grid))
    assert np.abs(read * 16 - grid.ravel()).max() < 16 / 255


@pytest.mark.parametrize("perturbation", perturbations.PERTURBATIONS)
def test_perturbations_follow_their_recipe(perturbation: str) -> None:
    picture = dataset.digit_rows("test")[0]["image"]
    clean = np.asarray(picture, dtype=float)

    def damage(severity: int, seed: int) -> float:
        spoiled = perturbations.perturb(picture, perturbation, severity, seed)
        assert spoiled.size == picture.size
        return float(np.abs(np.asarray(spoiled, dtype=float) - clean).mean())

    assert damage(1, 7) == damage(1, 7) > 0
    assert len({damage(1, seed) for seed in range(5)}) == 5
    by_severity = [np.mean([damage(severity, seed) for seed in range(8)]) for severity in perturbations.SEVERITIES]
    assert by_severity == sorted(by_severity)


def test_a_handed_out_picture_is_the_callers_own() -> None:
    picture = dataset.digit_rows("test")[0]["image"]
    first = perturbations.perturb(picture, "blurred", 1, 3)
    pixels_before = first.tobytes()
    first.paste(0, (0, 0, *first.size))
    assert perturbations.perturb(picture, "blurred", 1, 3).tobytes() == pixels_before


def test_tasks_folder_is_built_once_and_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tasks_folder()
    assert folder.is_relative_to(tmp_path / "cache") and folder.is_absolute()
    stamp = (folder / "data" / "digits-test.parquet").stat().st_mtime_ns
    assert tasks_folder() == folder
    _build(folder)
    assert (folder / "data" / "digits-test.parquet").stat().st_mtime_ns == stamp, (
        "a slower builder must not replace it"
    )
    assert list(folder.parent.iterdir()) == [folder], "no scratch is left behind"
    for file in folder.glob("digits_*.yaml"):
        task = yaml.load(file.read_text().replace("!function", ""), yaml.SafeLoader)
        for data in task["dataset_kwargs"]["data_files"].values():
            assert pyarrow.parquet.read_metadata(folder / data).num_rows in (1200, 597, 597 * 4)


def test_importing_the_package_is_cheap() -> None:
    heavy = ["sklearn", "numpy", "torch", "datasets", "lmms_eval", "PIL"]
    code = f"import sys, lmms_digits, lmms_digits.manifest; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
