"""Many short evaluations while runners, workers and the queue server are killed: nothing may be lost or doubled.

Real server, queue server, boxes, slots and processes; the evaluations are those of the tests' stand-in runner, which
lives through every phase in a second (no model is loaded, so a core can do hundreds). What is killed when comes from
the seed; each kill waits for an evaluation in the phase that is its turn. `make soak` runs all of it, the test suite
a tenth.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fault_world import TASK, FaultWorld, Run, alive, until, words

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.evaluation_queue import split_job_id

BOXES = 2
BACKLOG = 40
#: In the order of an evaluation's life; in the first and the last it has no runner.
PHASES = ("starting", "model_load", "build", "generate", "score", "write", "recording")
KINDS = ("runner", "slot", "horse", "runner", "slot", "valkey", "runner", "keeper", "slot", "supervisor")
#: One evaluation is struck at most so often: its budgets are for accidents, not for us.
MOST_STRIKES = 2
PATIENCE_S = 600.0


@dataclass
class Soak:
    """One run of it."""

    world: FaultWorld
    evaluations: int
    slots: int
    kills: int
    random: random.Random
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    strikes: Counter[str] = field(default_factory=Counter)
    finished: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Submit, kill, and wait until everything has ended and settled."""
        for number in range(BOXES):
            self._start_box(number)
        submitting = threading.Thread(target=self._submit, daemon=True)
        submitting.start()
        kinds: list[str] = []
        for number in range(self.kills):
            due = self.evaluations * number // (self.kills + 1)
            self._wait_for(due)
            if number % len(KINDS) == 0:
                kinds = self.random.sample(KINDS, len(KINDS))
            self._kill(PHASES[number % len(PHASES)], kinds.pop())
        self._wait_for(self.evaluations)
        submitting.join()
        until(lambda: self.world.redis.zcard("lmms:leases") == 0, "the leases to be given up")
        with suppress(AssertionError):  # it is counted
            until(lambda: not self.world.strays(), "the processes to end", 60)

    def _start_box(self, number: int) -> None:
        self.world.box(f"box{number}", "--cpu-slots", str(self.slots // BOXES))

    def _submit(self) -> None:
        while len(self.world.runs) < self.evaluations:
            if len(self.world.runs) - len(self.finished) >= BACKLOG:
                time.sleep(0.1)
                continue
            try:
                self.world.submit(dwell=round(self.random.uniform(0.05, 0.2), 3))
            except LmmsError:  # the queue server is being killed
                time.sleep(0.2)

    def _wait_for(self, ended: int) -> None:
        until(lambda: self._ended() >= ended, f"{ended} evaluations to end", PATIENCE_S)

    def _ended(self) -> int:
        time.sleep(0.2)
        for run in list(self.world.runs):
            if run.run_id in self.finished or f"finished {TASK}" not in run.notes() or run.lease():
                continue
            if (state := run.state()) in ("finished", "failed", "cancelled"):
                self.finished.add(run.run_id)
                if state != "finished":
                    self.failed.append(f"{run.run_id} is {state}: {run.facts()['tasks'][0]['message']}")
        return len(self.finished)

    # Killing

    def _kill(self, phase: str, kind: str) -> None:
        run, phase = self._victim(phase)
        if phase in ("starting", "recording") and kind in ("runner", "keeper"):
            kind = "horse"
        process = self._process(run, kind)
        if kind == "valkey":
            self.world.kill_valkey()
            time.sleep(self.random.uniform(0, 1))
            self.world.valkey.start()
        elif process is None:
            return self._kill(phase, kind)
        else:
            with suppress(psutil.Error):
                process.kill()
            if kind == "supervisor":
                process.wait()
                self._start_box(next(at for at in range(BOXES) if self._box(f"box{at}") is None))
        self.strikes[run.run_id] += 1
        self.done[phase, kind] += 1
        return None

    def _victim(self, wanted: str) -> tuple[Run, str]:
        """An evaluation in the phase; after some seconds in vain, one in any phase."""
        give_up_at = time.monotonic() + 8

        def found() -> tuple[Run, str] | None:
            runs = {run.run_id: run for run in self.world.runs}
            held = [runs[key] for job in self.world.leases() if (key := split_job_id(job)[0]) in runs]
            phases = [(run, _phase(run)) for run in held if self.strikes[run.run_id] < MOST_STRIKES]
            fitting = [each for each in phases if each[1] == wanted or time.monotonic() > give_up_at]
            return self.random.choice(fitting) if fitting else None

        victim: tuple[Run, str] = until(found, "an evaluation to be worked on", PATIENCE_S)
        return victim

    def _process(self, run: Run, kind: str) -> psutil.Process | None:
        lease = run.lease()
        if kind in ("runner", "keeper"):
            word = "fault_runner.py" if kind == "runner" else "kept"
            return next(
                (each for each in run.processes() if word in " ".join(words(each)) and kind_is(each, kind)), None
            )
        if lease is None:
            return None
        if kind == "supervisor":
            box = self._box(lease.box)
            return None if box is None else box
        pid = self.world.redis.hget(f"rq:worker:{lease.slot}", "pid")
        with suppress(psutil.Error, TypeError, ValueError):
            slot = psutil.Process(int(pid))  # type: ignore[arg-type]
            return slot if kind == "slot" else next(iter(slot.children()), None)
        return None

    def _box(self, name: str) -> psutil.Process | None:
        return next((box.process for box in self.world.boxes if box.name == name and alive(box.process)), None)

    # Counting

    def duplicates(self) -> int:
        """Scores that stand twice in one attempt, or that are missing where the evaluation is finished."""
        client = MlflowClient(self.world.server.url)
        wrong = 0
        for run in self.world.runs:
            steps = [metric.step for metric in client.get_metric_history(run.run_id, f"{TASK}/exact_match")]
            wrong += len(steps) - len(set(steps)) if steps else 1
        return wrong


def kind_is(process: psutil.Process, kind: str) -> bool:
    """Tell the runner from its keeper, whose command line holds the runner's."""
    return ("kept" in words(process)) == (kind == "keeper")


def _phase(run: Run) -> str:
    """The phase that the evaluation's newest attempt is in."""
    last = run.notes()[-1:] or [""]
    if last[0].startswith("finished"):
        return "recording"
    told = [note.split()[1] for note in run.notes() if note.startswith("phase")]
    return told[-1] if told and not last[0].startswith("attempt") else "starting"


def report(soak: Soak, seed: int, seconds: float) -> dict[str, int | float]:
    """Print the kills and return the figures."""
    kinds = sorted({kind for _, kind in soak.done})
    table = Table("phase", *kinds, "all", title=f"kills, seed {seed}")
    for phase in PHASES:
        counts = [soak.done[phase, kind] for kind in kinds]
        table.add_row(phase, *map(str, counts), str(sum(counts)))
    Console().print(table)
    for line in soak.failed + soak.world.strays():
        print(line)
    return {
        "evaluations": soak.evaluations,
        "slots": soak.slots,
        "kills": soak.done.total(),
        "phases": len({phase for phase, _ in soak.done}),
        "kinds": len(kinds),
        "finished": len(soak.finished) - len(soak.failed),
        "duplicates": soak.duplicates(),
        "leases": int(soak.world.redis.zcard("lmms:leases")),
        "stray_processes": len(soak.world.strays()),
        "seed": seed,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Soak and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.evaluations} evaluations of the stand-in runner, {options.slots} slots, seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="lmms-soak-") as name:
        world = FaultWorld(Path(name))
        started = time.monotonic()
        try:
            world.start()
            soak = Soak(world, options.evaluations, options.slots, options.kills, random.Random(options.seed))
            soak.run()
            figures = report(soak, options.seed, time.monotonic() - started)
        finally:
            world.close()
    print(json.dumps(figures))
    well = figures["finished"] == figures["evaluations"] and figures["kills"] >= options.kills
    return 0 if well and not figures["duplicates"] and not figures["leases"] + figures["stray_processes"] else 1


if __name__ == "__main__":
    sys.exit(main())
