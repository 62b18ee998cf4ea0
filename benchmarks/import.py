"""How fast an output folder of lmms-eval becomes an MLflow run, and how much memory that takes.

For 10^4, 10^5 and 10^6 generated samples, each in a fresh process, over a fresh SQLite store: rows per second and the
process's peak memory, which must not grow with the file. `--quick` leaves the largest out. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 100_000, 1_000_000)
_REPEATED = 3
_TASK = "generated_vqa"
_STAMP = "20250101_120000"


def write_outputs(folder: Path, samples: int) -> None:
    """Write a results file and its samples as lmms-eval 0.7.3 does; a fifth of the answers is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    right = 0
    with (folder / f"{_STAMP}_samples_{_TASK}.jsonl").open("w", encoding="utf-8") as file:
        for doc_id in range(samples):
            score = float(doc_id * 7919 % 5 > 0)
            right += int(score)
            row = {
                "doc_id": doc_id,
                "target": str(doc_id % 97),
                "filtered_resps": f"The picture shows {doc_id % 97 if score else 'nothing that I know'}.",
                "token_counts": [{"input_tokens": 300 + doc_id % 50, "output_tokens": 9, "reasoning_tokens": 0}],
                "doc_hash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
                "exact_match": {"score": score, "category": f"kind {doc_id % 12}"},
                "input": f"Question {doc_id}: how many objects does this picture show, and which is the largest? "
                "Answer with a number or a short phrase, and give no explanation of what you see.",
            }
            file.write(json.dumps(row) + "\n")
    results = {
        "results": {_TASK: {"alias": _TASK, "exact_match,none": right / samples, "exact_match_stderr,none": "N/A"}},
        "group_subtasks": {_TASK: []},
        "configs": {
            _TASK: {"task": _TASK, "output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
        },
        "higher_is_better": {_TASK: {"exact_match": True}},
        "n-samples": {_TASK: {"original": samples, "effective": samples}},
        "config": {"model": "qwen2_5_vl", "model_args": "pretrained=generated/model", "limit": None},
        "date": _STAMP,
        "total_evaluation_time_seconds": "100.0",
    }
    (folder / f"{_STAMP}_results.json").write_text(json.dumps(results), encoding="utf-8")


def import_once(folder: Path, store: Path) -> None:
    """Import the folder into a store of its own; print the seconds and the process's peak memory as JSON."""
    from mlflow import MlflowClient

    from mlflow_lmms.importing.discovery import discover
    from mlflow_lmms.importing.import_run import Importer, ImportOptions
    from mlflow_lmms.importing.model_map import ModelMap
    from mlflow_lmms.importing.report import ImportStatus
    from mlflow_lmms.importing.scrubbed import scrubber_for_files

    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.chdir(store)  # MLflow makes artifact folders where it stands
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    client.search_experiments()  # makes the database's tables, which is not what is measured
    importer = Importer(client, ImportOptions(), ModelMap(client, {}), scrubber_for_files())
    started = time.perf_counter()
    report = importer.import_all(discover([folder]))
    seconds = time.perf_counter() - started
    assert report.count(ImportStatus.IMPORTED) == 1, report.document()
    assert not report.files[0].warnings, report.document()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "samples": report.files[0].samples, "peak_mb": peak}))


def measure(samples: int, folder: Path) -> tuple[float, float]:
    """Rows per second and peak memory in MB of one import in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="lmms-import-store-") as store:
        command = [sys.executable, __file__, "--child", str(folder), store]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the import of {samples:,} samples failed:\n{done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["samples"] == samples
    return samples / told["seconds"], told["peak_mb"]


def main() -> None:
    """Measure every size; print a line for each, and a JSON line for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave 10^6 samples out")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "STORE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        logging.disable(logging.INFO)
        import_once(Path(asked.child[0]), Path(asked.child[1]))
        return
    rates: dict[int, float] = {}
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="lmms-import-files-") as scratch:
        for samples in SIZES[:-1] if asked.quick else SIZES:
            folder = Path(scratch) / str(samples)
            write_outputs(folder, samples)
            runs = [measure(samples, folder) for _ in range(_REPEATED if samples < SIZES[-1] else 1)]
            rates[samples] = statistics.median(rate for rate, _ in runs)
            peaks[samples] = statistics.median(peak for _, peak in runs)
            print(f"{samples:>9,} samples  {rates[samples]:>8,.0f} rows/s  peak {peaks[samples]:,.0f} MB")
    largest = max(rates)
    told = {"rows_per_s": round(rates[largest])}
    told |= {f"peak_mb_1e{len(str(samples)) - 1}": round(peak) for samples, peak in peaks.items()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
