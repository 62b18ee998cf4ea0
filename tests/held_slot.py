"""A slot's process that stops at one named point until the test lets it go on. A script, see `FaultWorld.box`.

LMMS_FAULT_HOLD names the point; in LMMS_FAULT_FOLDER a file `at-<point>` appears there, and `go-<point>` ends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rq.worker

import worker.slot
from mlflow_lmms.run_recorder import RunRecorder
from worker.gpu_worker import GpuWorker

POINT = os.environ["LMMS_FAULT_HOLD"]
FOLDER = Path(os.environ["LMMS_FAULT_FOLDER"])


def hold() -> None:
    """Wait here the first time that somebody comes by."""
    at = FOLDER / f"at-{POINT}"
    if at.exists():
        return
    at.touch()
    while not (FOLDER / f"go-{POINT}").exists():
        time.sleep(0.02)


def holding(function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
    """The function with a stop before or after it."""

    def held(*arguments: Any, **named: Any) -> Any:
        if not after:
            hold()
        answer = function(*arguments, **named)
        if after:
            hold()
        return answer

    return held


def install() -> None:
    """Put the stop where the point says."""
    if POINT == "before-fork":  # RQ has noted the execution; no process yet
        GpuWorker.fork_work_horse = holding(GpuWorker.fork_work_horse)  # type: ignore[method-assign]
    elif POINT == "after-fork":  # the new process is still in the slot's process group
        os.register_at_fork(after_in_child=hold)
    elif POINT == "before-name":  # the new process has not told RQ who works on the job
        base = rq.worker.BaseWorker
        base.prepare_job_execution = holding(base.prepare_job_execution)  # type: ignore[method-assign]
    elif POINT == "before-recording":
        RunRecorder.record_task = holding(RunRecorder.record_task)  # type: ignore[method-assign]
    elif POINT == "after-recording":  # the result stands in MLflow, and the server does not know it yet
        RunRecorder.record_task = holding(RunRecorder.record_task, after=True)  # type: ignore[method-assign]
    else:
        raise ValueError(f"no point is called {POINT}")


if __name__ == "__main__":
    install()
    worker.slot.main()
