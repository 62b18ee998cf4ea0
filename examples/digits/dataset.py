"""Builds the benchmark's data from scikit-learn's bundled handwritten digits: no hub, no download, no chance.

Owns the split (first 1,200 for training, the other 597 for testing) and the columns of every document. Must not
know the models. The prompts and the scoring stand in `tasks/`.
"""

from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from .perturbations import PERTURBATIONS, SEVERITIES
from .pixels import FULL_INK, draw, read
from .readers import Floats, Integers

if TYPE_CHECKING:
    import datasets

Split = Literal["train", "test"]
Row = dict[str, Any]

TRAIN_SIZE = 1200
# Numbers without meaning; changing one changes every document hash that depends on it.
PAIRING_SEED = 20
PERTURBATION_SEED = 1_000_000

# Shares of a full page of ink that part the training pictures into thirds.
LIGHT_BELOW = 0.29
HEAVY_FROM = 0.32

TASK_SOURCES = Path(__file__).parent / "tasks"


def prepare_dataset(folder: Path) -> Path:
    """Fill `folder` with all that lmms-eval's `--include_path` needs: task files, scoring, data; return it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for source in (*TASK_SOURCES.glob("*.yaml"), TASK_SOURCES / "scoring.py"):
        copyfile(source, folder / source.name)
    for name, rows in (("digits", digit_rows), ("sums", sum_rows), ("robust", robust_rows)):
        for split in ("train", "test"):
            write(rows(split), folder / "data" / f"{name}-{split}.parquet")
    return folder


def ink_and_labels(split: Split) -> tuple[Floats, Integers]:
    """The pixels of a split as a model reads them (n x 64), and the digits they show."""
    grids, labels = _grids_and_labels(split)
    return np.stack([read(draw(grid)) for grid in grids]), labels


def digit_rows(split: Split) -> list[Row]:
    """One picture each: the documents of `digits_vqa` and `digits_parity`."""
    grids, labels = _grids_and_labels(split)
    ink = _ink_words(grids)
    first = 0 if split == "train" else TRAIN_SIZE
    return [
        {
            "image": draw(grid),
            "answer": str(label),
            "parity": "odd" if label % 2 else "even",
            "digit": int(label),
            "ink": ink[i],
            "source": first + i,
        }
        for i, (grid, label) in enumerate(zip(grids, labels, strict=True))
    ]


def sum_rows(split: Split) -> list[Row]:
    """Two pictures each: every picture is once the left and once the right one."""
    left_rows = digit_rows(split)
    order = np.random.default_rng(PAIRING_SEED).permutation(len(left_rows))
    return [_sum_row(left, left_rows[i]) for left, i in zip(left_rows, order, strict=True)]


def robust_rows(split: Split) -> list[Row]:
    """Every picture once per perturbation, its severity going round: 199 test documents for each of the 12 pairs.

    The document holds the clean picture and the recipe; the spoiled picture is made while the model responds.
    """
    clean = digit_rows(split)
    if split == "train":
        # Worked examples are drawn from here; as many as elsewhere will do.
        clean = clean[: TRAIN_SIZE // len(PERTURBATIONS)]
    rows = []
    for row in clean:
        source = row["source"]
        for turn, perturbation in enumerate(PERTURBATIONS):
            severity = SEVERITIES[(source + turn) % len(SEVERITIES)]
            seed = PERTURBATION_SEED + source * len(PERTURBATIONS) + turn
            rows.append({**row, "perturbation": perturbation, "severity": severity, "seed": seed})
    return rows


def write(rows: list[Row], path: Path) -> None:
    """Write documents as a parquet file whose picture columns lmms-eval opens as pictures."""
    # Imported here: they take seconds. `datasets` marks image columns so that lmms-eval gets pictures back; its own
    # `to_parquet` would draw a progress bar for each of these small files.
    import datasets
    import pyarrow.parquet

    features = datasets.Features({name: _feature(value) for name, value in rows[0].items()})
    pyarrow.parquet.write_table(datasets.Dataset.from_list(rows, features=features).data.table, path)


def _sum_row(left: Row, right: Row) -> Row:
    total = left["digit"] + right["digit"]
    return {
        "left_image": left["image"],
        "right_image": right["image"],
        "answer": str(total),
        "left_digit": left["digit"],
        "right_digit": right["digit"],
        "carry": "two-figure sum" if total > 9 else "one-figure sum",
        "parities": "mixed" if left["parity"] != right["parity"] else f"both {left['parity']}",
        "left_source": left["source"],
        "right_source": right["source"],
    }


def _grids_and_labels(split: Split) -> tuple[Floats, Integers]:
    # Imported here: it takes a second, and only building the data and training need it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = slice(None, TRAIN_SIZE) if split == "train" else slice(TRAIN_SIZE, None)
    return bunch.images[part], bunch.target[part].astype(np.int64)


def _ink_words(grids: Floats) -> list[str]:
    """How much ink each picture holds, in words."""
    share = grids.mean(axis=(1, 2)) / FULL_INK
    return ["light" if ink < LIGHT_BELOW else "medium" if ink < HEAVY_FROM else "heavy" for ink in share]


def _feature(value: object) -> "datasets.Image | datasets.Value":
    import datasets

    if isinstance(value, Image.Image):
        return datasets.Image()
    return datasets.Value("int64" if isinstance(value, int) else "string")
