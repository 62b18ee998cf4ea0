"""Two runs of many samples compared: read, align, test, interval; and all pairs of many models.

The baseline is what a notebook does with lmms-eval's own files: `json.loads` line by line, align by document id,
10,000 bootstrap draws (a few are timed and scaled). Ours reads the stored Parquet scores. Medians; the files are
written into a temporary folder first, with real document hashes, and were read once before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mlflow_lmms.analysis.paired_difference import paired_difference
from mlflow_lmms.analysis.pairwise import pairwise
from mlflow_lmms.score_vectors import pair, read_score_vector, score_column

DRAWS = 10_000
DRAWS_TIMED = 20
DATASET = "one dataset"

Values = NDArray[np.float64]


def write_scores(file: Path, keys: list[str], values: Values) -> None:
    """A scores table as the runner writes it, sorted by document."""
    table = pa.table(
        {
            "doc_hash": pa.array(keys),
            "row_key": pa.array([hashlib.sha256(key.encode()).hexdigest() for key in keys]),
            "doc_id": pa.array(range(len(keys))),
            score_column("acc", "none"): pa.array(values),
        }
    )
    pq.write_table(table, file, compression="zstd")


def write_samples(file: Path, values: Values) -> None:
    """A samples file as lmms-eval writes it, in short."""
    with file.open("w", encoding="utf-8") as out:
        for number, value in enumerate(values):
            line = {"doc_id": number, "input": "What is shown here?", "filtered_resps": ["a cat"], "acc": value}
            out.write(json.dumps(line) + "\n")


def median_s(action: Callable[[], object], repeats: int) -> float:
    """Median seconds of an action that was done once before."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def notebook(first: Path, second: Path) -> float:
    """Seconds of the baseline, its bootstrap scaled from a few draws."""
    start = time.perf_counter()
    found = []
    for file in (first, second):
        with file.open(encoding="utf-8") as lines:
            found.append({row["doc_id"]: row["acc"] for row in map(json.loads, lines)})
    shared = sorted(found[0].keys() & found[1].keys())
    one, two = (np.array([scores[document] for document in shared]) for scores in found)
    read = time.perf_counter() - start
    random = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(DRAWS_TIMED):
        drawn = random.integers(0, len(one), len(one))
        (two[drawn].mean() - one[drawn].mean())
    return read + (time.perf_counter() - start) * DRAWS / DRAWS_TIMED


def ours(folder: Path, kind: str) -> None:
    """Read both, align, test, interval."""
    vectors = [read_score_vector(folder / f"{kind}{side}.parquet", "acc", "none", DATASET) for side in (0, 1)]
    paired_difference(*pair(*vectors))


def by_keys(folder: Path, kind: str) -> None:
    """The same where the runs do not tell that their documents are the same: aligned by the documents' hashes."""
    paired_difference(*pair(*(read_score_vector(folder / f"{kind}{side}.parquet", "acc", "none") for side in (0, 1))))


def prepare(folder: Path, samples: int) -> None:
    """Write both kinds of scores, ours and lmms-eval's."""
    random = np.random.default_rng(1)
    keys = sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in range(samples))
    skill = random.random(samples)
    for side in (0, 1):
        chance = np.clip(skill + 0.01 * side, 0, 1)
        binary = (random.random(samples) < chance).astype(float)
        fractions = np.clip(chance + random.normal(0, 0.2, samples), 0, 1)
        for kind, values in (("binary", binary), ("continuous", fractions)):
            write_scores(folder / f"{kind}{side}.parquet", keys, values)
            write_samples(folder / f"{kind}{side}.jsonl", values)


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    random = np.random.default_rng(2)
    table = Table(
        "comparison", "median", "notebook", "ratio", title=f"{options.samples} samples", title_justify="left"
    )
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.samples)
        for kind in ("binary", "continuous"):
            base = notebook(folder / f"{kind}0.jsonl", folder / f"{kind}1.jsonl")
            for label, action in ((kind, ours), (f"{kind}, aligned by hashes", by_keys)):
                taken = median_s(partial(action, folder, kind), options.repeats)
                table.add_row(label, f"{taken * 1e3:.1f} ms", f"{base:.1f} s", f"{base / taken:,.0f}")
                figures[label] = round(taken * 1e3, 1)
    matrix = (random.random((options.models, options.samples)) < 0.6).astype(float)
    fractions = random.random((options.models, options.samples))
    for label, scores in (("matrix", matrix), ("matrix, continuous", fractions)):
        taken = median_s(partial(pairwise, scores), options.repeats)
        table.add_row(f"{label} of {options.models} models", f"{taken * 1e3:.1f} ms", "", "")
        figures[label] = round(taken * 1e3, 1)
    Console().print(table)
    told = {"binary_ms": "binary", "continuous_ms": "continuous", f"matrix{options.models}_ms": "matrix"}
    told["matrix_continuous_ms"] = "matrix, continuous"
    print(json.dumps({key: figures[label] for key, label in told.items()}))


if __name__ == "__main__":
    main()
