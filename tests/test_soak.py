"""A tenth of `make soak`: every evaluation finishes once, whatever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def test_a_tenth_of_the_soak() -> None:
    command = [sys.executable, "-P", str(SOAK), "--evaluations", "50", "--kills", "12", "--slots", "8", "--seed", "4"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["finished"], figures["duplicates"]) == (50, 0)
    assert (figures["leases"], figures["stray_processes"]) == (0, 0)
    assert figures["kills"] >= 10
    assert figures["phases"] >= 5
    assert figures["kinds"] == 6
