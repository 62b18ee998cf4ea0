"""A runner that speaks the protocol and can be told to linger in each phase; standard library alone, so it is quick.

Run as the Python of the evaluation environment `stand-in` (see fault_world). What it is to do comes as model
arguments: `control` is a folder where it notes what it does and looks for files that tell it to go on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUT = os.fdopen(int(os.environ["LMMS_EVENT_FD"]), "w", buffering=1)
PHASES = ("model_load", "build", "generate", "score", "write")


def event(kind: str, **fields: Any) -> None:
    """Send one event."""
    print(json.dumps({"event": kind, **fields}), file=OUT)


class Evaluation:
    """One request: `linger` names the phase to wait in, `only` the attempt that does (default: each)."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.told = dict(pair.split("=", 1) for pair in request["model_args"].split(","))
        self.control = Path(self.told["control"])
        self.output = Path(request["output_folder"])
        self.documents = int(self.told.get("documents", 20))
        self.chunk = int(self.told.get("chunk", 5))

    def run(self) -> None:
        """Do every task."""
        self.note(f"attempt {self.request['attempt']}")
        for name in ("environment.json", "request.json"):
            (self.output / name).write_text("{}")
        if "stubborn" in self.told:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "family" in self.told:
            self.start_family()
        self.phase(None, "model_load")
        for task in self.request["tasks"]:
            self.evaluate(task)

    def evaluate(self, task: str) -> None:
        """Answer what is not answered yet, a chunk at a time, and write the result."""
        self.phase(task, "build")
        event("task-started", task=task, samples=self.documents)
        self.phase(task, "generate")
        kept = Path(self.request["cache_folder"]) / f"answers-{task}"
        done = int(kept.read_text()) if kept.exists() else 0
        while done < self.documents:
            upto = min(done + self.chunk, self.documents)
            for document in range(done, upto):
                time.sleep(float(self.told.get("pause", 0)))
                self.note(f"asked {task} {document}")
            done = upto
            kept.with_suffix(".new").write_text(str(done))
            kept.with_suffix(".new").replace(kept)
            counts = {"done": done, "total": self.documents, "rate": None, "eta_s": None}
            event("progress", task=task, phase="generate", **counts)
        for own in ("overtime", "silent"):  # phases that only a fault test has, with limits of their own
            if self.told.get("linger") == own:
                self.phase(task, own)
        self.phase(task, "score")
        self.phase(task, "write")
        self.write(task)

    def write(self, task: str) -> None:
        """The result's files, made from those of the template that lies beside the control folders."""
        template = self.control.parent / "template"
        for folder in ("samples", "tasks"):
            (self.output / folder).mkdir(exist_ok=True)
        for end in (".parquet", ".scores.parquet"):
            shutil.copy(template / "samples" / f"stand_in{end}", self.output / "samples" / f"{task}{end}")
        text = (template / "tasks" / "stand_in.json").read_text().replace("stand_in", task)
        result = json.loads(text) | {"attempt": self.request["attempt"]}
        file = self.output / "tasks" / f"{task}.json"
        file.with_suffix(".new").write_text(json.dumps(result))
        file.with_suffix(".new").replace(file)
        self.note(f"finished {task}")
        event("task-finished", task=task, result=f"tasks/{task}.json")

    def phase(self, task: str | None, name: str) -> None:
        """Begin a phase, and wait in it when told so."""
        event("phase", task=task, phase=name)
        self.note(f"phase {name}")
        time.sleep(float(self.told.get("dwell", 0)))
        if self.told.get("linger") != name or self.told.get("only", str(self.request["attempt"])) != str(
            self.request["attempt"]
        ):
            return
        self.note(f"lingers {name}")
        while not (self.control / "go").exists():
            if name != "silent":
                event("heartbeat")
            time.sleep(0.05)

    def start_family(self) -> None:
        """A child, a grandchild of `subprocess.run`, and one in a session of its own without a parent."""
        subprocess.Popen(["sleep", "300"])
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "import subprocess; subprocess.run(['sleep', '300'])"])
        subprocess.Popen(["setsid", "sh", "-c", "sleep 300 & exit 0"]).wait()

    def note(self, text: str) -> None:
        """Append a line for the test to read."""
        with (self.control / "notes").open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    Evaluation(json.load(sys.stdin)).run()
