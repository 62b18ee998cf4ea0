"""What starting costs: the same small evaluation by the bare command, by our cold start and by our warm start.

Each way is timed from the start of its first process until all its processes have ended and the results are on disk
(lmms-eval's files for the bare command, the runner's for ours). The ways take turns, in one process environment. Cold
and warm go the worker's own way (`WarmStart`, `RunnerProcess`), without server, queue and MLflow. The warm start's
server is made ready before, by a run that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmms_digits
from lmms_digits.train import train
from rich.console import Console
from rich.table import Table

from worker.evaluation_environment import runner_environ
from worker.part_run import RUNNER
from worker.runner_process import RunnerEvent, RunnerProcess
from worker.warm_start import WarmStart

TASK = "digits_vqa"
MODEL = "k-nearest-neighbours"
ADAPTER = "digits"
GRACE_S = 5.0
READY_S = 120.0


@dataclass
class Bench:
    """The evaluation and where its runs leave their files."""

    folder: Path
    model_args: str
    limit: int
    runs: int = 0
    scores: dict[str, set[float]] = field(default_factory=dict)

    def bare(self) -> float:
        """Wall time of `python -m lmms_eval`, in seconds."""
        folder, environ = self._next()
        command = [sys.executable, "-P", "-m", "lmms_eval", "--model", ADAPTER, "--model_args", self.model_args]
        command += ["--tasks", TASK, "--include_path", str(lmms_digits.tasks_folder()), "--limit", str(self.limit)]
        command += ["--output_path", str(folder), "--log_samples"]
        started = time.monotonic()
        subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
        taken = time.monotonic() - started
        (results,) = folder.rglob("*_results.json")
        self._note("bare", json.loads(results.read_text())["results"][TASK])
        return taken

    def ours(self, way: str, warm: WarmStart | None) -> float:
        """Wall time of the runner's process, in seconds; warm where a fork server is ready for it."""
        folder, environ = self._next()
        command = [sys.executable, *RUNNER]
        started = time.monotonic()
        if warm is not None:
            command = warm.command(command, ADAPTER, environ, ())
        process = RunnerProcess(command, environ, folder, environ["LMMS_LEASE"], GRACE_S)
        process.start(self._request(folder))
        said = []
        while not process.ended:
            said += process.read(1.0)
        process.close()
        taken = time.monotonic() - started
        events = [item.data for item in said if isinstance(item, RunnerEvent)]
        finished = [event for event in events if event["event"] == "task-finished"]
        assert process.code == 0 and finished, said
        assert way != "warm" or not any("started cold" in str(item) for item in said), said
        self._note(way, json.loads((folder / finished[0]["result"]).read_text())["raw"])
        return taken

    def _next(self) -> tuple[Path, dict[str, str]]:
        self.runs += 1
        folder = self.folder / str(self.runs)
        folder.mkdir()
        environ = runner_environ(os.environ, mark=f"startup-{self.runs}#{os.getpid()}", gpus=(), secrets={})
        environ |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return folder, environ

    def _note(self, way: str, results: dict[str, Any]) -> None:
        self.scores.setdefault(way, set()).add(results["exact_match,none"])

    def _request(self, folder: Path) -> dict[str, Any]:
        return {
            "protocol": 1, "run_id": f"{self.runs:032x}", "part": "p0", "attempt": 1, "model": ADAPTER,
            "model_args": self.model_args, "tasks": [TASK], "include_paths": [str(lmms_digits.tasks_folder())],
            "limit": self.limit, "offset": 0, "batch_size": 1, "num_fewshot": None, "gen_kwargs": None,
            "seeds": {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}, "repeats": None,
            "chunk_size": 64, "cache_folder": str(folder / "cache"), "output_folder": str(folder),
            "thumbnail_bytes": 0, "device": None, "trust_remote_code": False,
        }  # fmt: skip


def make_ready(bench: Bench, warm: WarmStart) -> float:
    """Run once for the fork server to be started, and wait until it serves; return its time to get ready."""
    bench.ours("cold", warm)
    started = time.monotonic()
    warm.tend()
    while not warm.serving():
        assert time.monotonic() - started < READY_S, "the fork server did not get ready"
        time.sleep(0.1)
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, default=40, help="documents of the evaluation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train(folder / "models")[MODEL]
        bench = Bench(folder, f"path={model}", options.limit)
        warm = WarmStart(GRACE_S)
        try:
            ready_s = make_ready(bench, warm)
            times: dict[str, list[float]] = {"bare": [], "cold": [], "warm": []}
            for _ in range(options.repeats):
                times["bare"].append(bench.bare())
                times["cold"].append(bench.ours("cold", None))
                times["warm"].append(bench.ours("warm", warm))
        finally:
            warm.stop()
    assert len(set.union(*bench.scores.values())) == 1, bench.scores
    report(times, options.limit, ready_s)


def report(times: dict[str, list[float]], limit: int, ready_s: float) -> None:
    """Print the table and, as the last line, the ratios of the medians as JSON."""
    bare = statistics.median(times["bare"])
    title = f"{TASK}, {limit} documents, {len(times['bare'])} runs each, in turns; same score each time"
    table = Table("way", "median s", "min s", "max s", "over bare", title=title)
    for name, values in times.items():
        median = statistics.median(values)
        figures = (median, min(values), max(values))
        table.add_row(name, *(f"{value:.2f}" for value in figures), f"{median / bare:.3f}")
    Console().print(table)
    print(f"From start to end of the processes. A fork server was ready after {ready_s:.1f} s.")
    ratios = {f"{name}_over_bare": round(statistics.median(times[name]) / bare, 3) for name in ("warm", "cold")}
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
