"""How fast a killed worker's job runs again, and how much of it is asked again, with the real lmms-eval.

One evaluation answers steadily while SIGKILL strikes its slot (`slot`), or everything on its box at once while
another box stands by (`box`: found after the lease's time, 15 s). Running again: a runner has been started under a
new lease. Until it answers, lmms-eval starts and loads its model, which is shown apart. The model counts requests.

The baseline is the bare `lmms-eval` command, killed when it has answered as much and started again at once, as a
loop in a shell would: it asks everything again. (A stock RQ worker is no baseline: nobody notices its loss for at
least 90 s, and its orphan goes on, so that two of them work.)
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fault_world import Box, FaultWorld, Run, until
from runner_process import PROBE, REPOSITORY

TASK = "probe_sum"
REQUESTS = 60
DELAY_S = 0.15
#: Struck when so many requests are answered.
STRIKE_AT = 24
LEASE_TTL_S = 15.0


@dataclass(frozen=True)
class Recovery:
    """One kill: seconds until the job runs and until it answers, and the requests that were asked twice."""

    running_s: float
    answering_s: float
    repeated: int


def asked(journal: Path) -> list[int]:
    """The documents asked so far, in order."""
    return [json.loads(line)[1] for line in journal.read_text().splitlines()] if journal.exists() else []


class ProbeWorld(FaultWorld):
    """A fleet whose evaluation environment is the real runner with the tests' model, which notes what it is asked."""

    def prepare(self) -> None:
        """The environment's Python; call it after `start`."""
        self.journal = self.folder / "journal"
        self.python.write_text(
            f"#!/bin/sh\nexport PROBE_JOURNAL='{self.journal}' PYTHONPATH=\"$PYTHONPATH:{PROBE}\"\n"
            f"exec '{sys.executable}' \"$@\"\n"
        )

    def standby(self, name: str) -> None:
        """A box with one slot, which shares its cache folder with the others."""
        self.box(name, "--cpu-slots", "1", MLFLOW_LMMS_CACHE_FOLDER=str(self.folder / "shared"))

    def probe(self) -> Run:
        """Ask for an evaluation by the real runner."""
        self.journal.unlink(missing_ok=True)
        answer = self.client.submit(
            adapter="runner_probe", environment="stand-in", tasks=[TASK], gpus=0, model_args={"delay": str(DELAY_S)}
        )
        run = Run(self, str(answer["run_id"]), self.folder)
        self.runs.append(run)
        return run


def recover(world: ProbeWorld, whole_box: bool) -> Recovery:
    """Run one evaluation, strike, and follow it to its end."""
    run = world.probe()
    until(lambda: len(asked(world.journal)) >= STRIKE_AT, f"{STRIKE_AT} answers", 300)
    before, token = len(asked(world.journal)), _token(run)
    box = _box_of(world, run)
    struck = time.monotonic()
    if whole_box:
        box.kill()
    else:
        for slot in box.slots():
            slot.kill()
    until(lambda: _token(run) > token and run.processes(), "the job to run again", 120)
    running = time.monotonic() - struck
    before = max(before, len(asked(world.journal)))
    until(lambda: len(asked(world.journal)) > before, "the job to answer again", 300)
    answering = time.monotonic() - struck
    run.ends(within_s=300)
    repeated = len(asked(world.journal)) - len(set(asked(world.journal)))
    assert len(set(asked(world.journal))) == REQUESTS, "a request was never asked"
    if whole_box:
        world.standby(box.name)
    return Recovery(running, answering, repeated)


def _token(run: Run) -> int:
    lease = run.lease()
    return lease.token if lease is not None else 0


def _box_of(world: FaultWorld, run: Run) -> Box:
    lease = run.lease()
    assert lease is not None
    return next(box for box in reversed(world.boxes) if box.name == lease.box)


def bare(folder: Path) -> Recovery:
    """The same kill of the bare command, which a loop starts again."""
    journal = folder / "bare-journal"
    journal.unlink(missing_ok=True)
    environ = {**os.environ, "PROBE_JOURNAL": str(journal), "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{PROBE}"}
    command = [sys.executable, "-P", "-m", "lmms_eval", "--model", "runner_probe", "--tasks", TASK]
    command += ["--model_args", f"delay={DELAY_S}", "--include_path", str(PROBE / "tasks")]
    command += ["--output_path", str(folder / "bare"), "--log_samples"]
    with (folder / "bare.log").open("wb") as log:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)

        first = start()
        until(lambda: len(asked(journal)) >= STRIKE_AT, "the bare command to answer", 300)
        struck = time.monotonic()
        first.kill()
        first.wait()
        before = len(asked(journal))
        second = start()
        running = time.monotonic() - struck
        until(lambda: len(asked(journal)) > before, "the bare command to answer again", 300)
        answering = time.monotonic() - struck
        assert second.wait(300) == 0, (folder / "bare.log").read_text()[-2000:]
    return Recovery(running, answering, len(asked(journal)) - len(set(asked(journal))))


def report(found: Mapping[str, Sequence[Recovery]], chunk_share: float) -> dict[str, float]:
    """Print the table and return the figures."""
    table = Table(
        "killed", "running again s", "answering again s", "asked twice", "share", title="medians (min - max)"
    )
    medians: dict[str, float] = {}
    for name, each in found.items():
        running, answering = [item.running_s for item in each], [item.answering_s for item in each]
        repeated = [item.repeated for item in each]
        medians[f"{name} running"] = statistics.median(running)
        medians[f"{name} share"] = statistics.median(repeated) / REQUESTS
        cells = [f"{statistics.median(of):.1f} ({min(of):.1f} - {max(of):.1f})" for of in (running, answering)]
        table.add_row(name, *cells, f"{statistics.median(repeated):g}", f"{medians[f'{name} share']:.3f}")
    Console().print(table)
    return {
        "recovery_s": round(medians["slot running"], 2),
        "repeated_share": round(medians["slot share"], 4),
        "chunk_share": round(chunk_share, 4),
        "box_recovery_s": round(medians["box running"], 2),
        "box_repeated_share": round(medians["box share"], 4),
        "bare_repeated_share": round(medians["bare share"], 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory(prefix="lmms-recovery-") as name:
        folder = Path(name)
        world = ProbeWorld(folder, ttl_s=LEASE_TTL_S, grace_s=5.0, tasks=PROBE / "tasks")
        try:
            world.start()
            world.prepare()
            for box in ("first", "second"):
                world.standby(box)
            found: dict[str, list[Recovery]] = {"bare": [], "slot": [], "box": []}
            for _ in range(repeats):
                found["bare"].append(bare(folder))
                found["slot"].append(recover(world, whole_box=False))
                found["box"].append(recover(world, whole_box=True))
        finally:
            world.close()
    # worker.runner.chunk_plan: a chunk is at most a twentieth of the task.
    print(json.dumps(report(found, chunk_share=REQUESTS // 20 / REQUESTS)))


if __name__ == "__main__":
    main()
