"""Starts real runner processes for tests, the way a worker does, and reads what they said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[1]
PROBE = Path(__file__).parent / "runner_probe"
DEADLINE_S = 480


@dataclass
class Outcome:
    """What a runner process left behind."""

    status: int
    events: list[dict[str, Any]]
    console: str
    folder: Path

    def of(self, kind: str, task: str | None = None) -> list[dict[str, Any]]:
        """The events of one kind, for one task or for all."""
        return [event for event in self.events if event["event"] == kind and task in (None, event.get("task"))]

    def result(self, task: str) -> dict[str, Any]:
        """The task's result file, found as its event says."""
        (finished,) = self.of("task-finished", task)
        result: dict[str, Any] = json.loads((self.folder / "output" / finished["result"]).read_text())
        return result

    def samples(self, task: str, which: str = "samples_file") -> list[dict[str, Any]]:
        """The rows of the task's samples or scores file."""
        rows: list[dict[str, Any]] = pq.read_table(self.folder / "output" / self.result(task)[which]).to_pylist()
        return rows


Watcher = Callable[[dict[str, Any], "subprocess.Popen[bytes]"], None]


@dataclass
class _Reader:
    """Collects events while the process runs, so that its pipe never fills."""

    descriptor: int
    process: subprocess.Popen[bytes]
    on_event: Watcher | None
    events: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> None:
        """Read to the end; each line must be one event."""
        with os.fdopen(self.descriptor, encoding="utf-8") as lines:
            for line in lines:
                self.events.append(json.loads(line))
                if self.on_event is not None:
                    self.on_event(self.events[-1], self.process)


def request_document(folder: Path, **changes: Any) -> dict[str, Any]:
    """A whole request for the probe, with some fields changed."""
    return {
        "protocol": 1,
        "run_id": "0123456789abcdef",
        "part": "0",
        "attempt": 1,
        "model": "runner_probe",
        "model_args": "",
        "tasks": ["probe_sum"],
        "include_paths": [str(PROBE / "tasks")],
        "limit": None,
        "offset": 0,
        "batch_size": 1,
        "num_fewshot": None,
        "seeds": {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234},
        "gen_kwargs": None,
        "repeats": None,
        "chunk_size": 64,
        "cache_folder": str(folder / "cache"),
        "output_folder": str(folder / "output"),
        "thumbnail_bytes": 100_000,
        "device": None,
        **changes,
    }


class Runner:
    """Runs requests in processes of their own: no network, a data cache in `hub`, the probe's adapter installed."""

    def __init__(self, hub: Path) -> None:
        self.environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(hub),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(PROBE)]),
        }

    def run(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        on_event: Watcher | None = None,
        inherited: Sequence[int] = (),
        **request: Any,
    ) -> Outcome:
        """Run one request to its end; its cache and output lie in `folder`."""
        stdin = json.dumps(request_document(folder, **request)).encode()
        return self.run_raw(folder, stdin, environment, on_event, inherited)

    def run_raw(
        self,
        folder: Path,
        stdin: bytes,
        environment: Mapping[str, str] | None = None,
        on_event: Watcher | None = None,
        inherited: Sequence[int] = (),
    ) -> Outcome:
        """Run with anything on stdin, and with descriptors of this process."""
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[writing, *inherited],
            env={**self.environment, **(environment or {}), "LMMS_EVENT_FD": str(writing)},
            cwd=folder,
            start_new_session=True,
        )
        os.close(writing)
        reader = _Reader(reading, process, on_event)
        thread = threading.Thread(target=reader.read)
        thread.start()
        try:
            console, _ = process.communicate(stdin, timeout=DEADLINE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            thread.join()
        return Outcome(process.returncode, reader.events, console.decode(errors="replace"), folder)
