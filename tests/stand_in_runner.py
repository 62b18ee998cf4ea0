"""A runner that speaks the protocol and evaluates nothing: what it does is in the names of the tasks.

Run as a script by test_worker_part, in place of a Python of an evaluation environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUT = os.fdopen(int(os.environ["LMMS_EVENT_FD"]), "w", buffering=1)


def event(kind: str, **fields: Any) -> None:
    """Send one event."""
    print(json.dumps({"event": kind, **fields}), file=OUT)


def main() -> int:
    """Do what the tasks are called after."""
    request = json.load(sys.stdin)
    output = Path(request["output_folder"])
    (output / "request.json").write_text(json.dumps(request))
    (output / "environment.json").write_text("{}")
    code = 0
    for task in request["tasks"]:
        what = task.partition("_")[0]
        if what == "early":
            os.kill(os.getpid(), signal.SIGKILL)
        event("phase", task=task, phase="generate")
        event("task-started", task=task, samples=4)
        for done in range(5):
            event("progress", task=task, phase="generate", done=done, total=4, rate=None, eta_s=None)
        code = globals()[what](task, request, output) or code
    return code


def ok(task: str, request: dict[str, Any], output: Path) -> None:
    """Finish the task."""
    score = {"metric": "acc", "filter": "none", "value": 0.5, "low": 0.1, "high": 0.9, "n": 4}
    event("score", task=task, **score, final=True)
    result = {
        "protocol": 1, "task": task, "attempt": request["attempt"], "output_type": "generate_until", "samples": 4,
        "documents": 4, "fingerprint": {}, "samples_file": f"samples/{task}.parquet",
        "scores_file": f"samples/{task}.scores.parquet",
        "metrics": [{"metric": "acc", "filter": "none", "value": 0.5, "n": 4}],
        "primary": {"metric": "acc", "filter": "none", "reason": "the only one"},
    }  # fmt: skip
    (output / "tasks").mkdir(exist_ok=True)
    file = output / "tasks" / f"{task}.json"
    file.with_suffix(".new").write_text(json.dumps(result))
    file.with_suffix(".new").replace(file)
    event("task-finished", task=task, result=f"tasks/{task}.json")


def fails(task: str, request: dict[str, Any], output: Path) -> int:
    """Fail the task."""
    event("task-failed", task=task, failure="scoring", message="it cannot be scored", traceback="Traceback: deep")
    return 1


def rank(task: str, request: dict[str, Any], output: Path) -> int:
    """Tell of a rank that was killed, as the process that starts the ranks does."""
    event("task-failed", task=task, failure="worker_lost", message="rank 1 was killed by signal 9", traceback="")
    return 1


def killed(task: str, request: dict[str, Any], output: Path) -> None:
    """Die."""
    os.kill(os.getpid(), signal.SIGKILL)


def quits(task: str, request: dict[str, Any], output: Path) -> None:
    """End without a result."""
    sys.stderr.write("ValueError: no good\n")
    sys.exit(3)


def hangs(task: str, request: dict[str, Any], output: Path) -> None:
    """Never end, with a grandchild in a session of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["setsid", "sh", "-c", "sleep 300 & sleep 300"])
    event("log", level="INFO", message="hanging", phase="generate", rank=0, time=time.time())
    time.sleep(300)


def leaks(task: str, request: dict[str, Any], output: Path) -> int:
    """Print the secret wherever it can."""
    secret = os.environ["OPENAI_API_KEY"]
    sys.stdout.write(f"stdout {secret}\n")
    sys.stderr.write(f"api_key={secret}\n")
    event("log", level="WARNING", message=f"log {secret}", phase="generate", rank=0, time=time.time())
    event("task-failed", task=task, failure="judge", message=f"bad key {secret}", traceback=f"Traceback {secret}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
