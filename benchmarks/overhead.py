"""What the queue costs: one evaluation through server, queue, worker and MLflow run, against the bare command.

Both evaluate the same model on the same task, taking turns, each from a cold start. The queue's time goes from the
submission to the finished MLflow run, so it includes what the bare command does not do: metrics, samples with
pictures, log and scores in MLflow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmms_digits
from lmms_digits.train import train
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from running_stack import RunningStack

from mlflow_lmms.registry import ModelDescription, register_model

TASK = "digits_vqa"
MODEL = "k-nearest-neighbours"


def bare(model_folder: Path, scratch: Path) -> float:
    """Wall time of `python -m lmms_eval`, in seconds."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "digits", "--model_args", f"path={model_folder}"]
    command += ["--tasks", TASK, "--include_path", str(lmms_digits.tasks_folder())]
    command += ["--output_path", str(scratch), "--log_samples"]
    started = time.monotonic()
    subprocess.run(command, cwd=scratch, check=True, capture_output=True)
    return time.monotonic() - started


def queued(stack: RunningStack) -> float:
    """Wall time from submission to the finished run, in seconds."""
    started = time.monotonic()
    evaluation = stack.client.wait(stack.submit(MODEL, tasks=[TASK]))
    assert evaluation["state"] == "finished", evaluation["tasks"]
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = train(folder / "models")
        with RunningStack(folder, task_folders=[lmms_digits.tasks_folder()]) as stack:
            register_model(
                MlflowClient(stack.url), MODEL, ModelDescription(adapter="digits", files=models[MODEL], gpus=0)
            )
            times: dict[str, list[float]] = {"bare": [], "queue": []}
            for _ in range(repeats):
                times["bare"].append(bare(models[MODEL], folder))
                times["queue"].append(queued(stack))
    report(times)


def report(times: dict[str, list[float]]) -> None:
    """Print the table and, as the last line, the figures as JSON."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    table = Table("way", "median s", "min s", "max s", title=f"{TASK}, {len(times['bare'])} runs each, in turns")
    for name, values in times.items():
        table.add_row(name, *(f"{value:.2f}" for value in (medians[name], min(values), max(values))))
    Console().print(table)
    ratio = medians["queue"] / medians["bare"]
    print(json.dumps({"queue_over_bare": round(ratio, 3), **{f"{n}_s": round(m, 2) for n, m in medians.items()}}))


if __name__ == "__main__":
    main()
