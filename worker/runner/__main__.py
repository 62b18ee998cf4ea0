"""Starts the runner: reads the request, opens the event channel, evaluates, and ends with the protocol's status.

Owns the process: stdin, signals, exit status. 0 when every task has its result, 1 when one failed, 2 for a request or
a start that is not according to the protocol.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from worker.runner.bars import watch_bars
from worker.runner.events import EventChannelError, EventWriter
from worker.runner.failures import TaskFailure, classify
from worker.runner.heartbeat import Heartbeat
from worker.runner.progress import Progress
from worker.runner.ranks import run_ranks
from worker.runner.request import RequestError, RunRequest, parse_request
from worker.runner.request_rate import RequestRate
from worker.runner.task_guard import TaskGuard

_OK, _TASK_FAILED, _BAD_REQUEST = 0, 1, 2


def main() -> int:
    """Run one request."""
    # The default action ends the process at once, in native code too; files appear by renaming, so none is half.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        events = EventWriter.from_environment(os.environ)
    except EventChannelError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_REQUEST
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
        request = parse_request(text)
    except (RequestError, UnicodeDecodeError) as error:
        events.log("ERROR", f"the request was refused: {error}")
        sys.stderr.write(f"the request was refused: {error}\n")
        return _BAD_REQUEST
    _close_stdin()
    return _OK if _evaluate(request, json.loads(text), events) else _TASK_FAILED


def _evaluate(request: RunRequest, document: Mapping[str, Any], events: EventWriter) -> bool:
    def report(error: BaseException) -> None:
        failure = classify(error, events.current_phase)
        for task in request.tasks:
            events.task_failed(task, failure.failure, failure.message, failure.traceback)

    with TaskGuard(report):
        _make_folders(request)
        if request.processes > 1 and "RANK" not in os.environ:
            return run_ranks(document, request, events)
        progress = Progress(events)
        progress.enter("import", None)
        Heartbeat(events, progress).start()
        watch_bars(progress)
        rate = None
        if request.rate is not None:
            rate = RequestRate.from_environment(request.rate, os.environ, events, progress)
            rate.install()
        # Not before: importing it imports lmms-eval, which takes seconds and must find the bars patched.
        from worker.runner.evaluation import Evaluation
        from worker.runner.log_capture import capture_logs
        from worker.runner.remote_code import refuse_remote_code

        if not request.trust_remote_code:
            refuse_remote_code()
        capture_logs(events)
        return Evaluation(request, events, progress, rate).run()
    return False


def _make_folders(request: RunRequest) -> None:
    try:
        # Prompts, answers and model arguments lie in the cache: nobody else's business.
        request.cache_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        request.output_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaskFailure(
            "unknown",
            f"a folder of the run cannot be made: {error}; check the worker's data folder and its free space",
        ) from error


def _close_stdin() -> None:
    """Code that asks a question (to trust remote code, say) gets the end of the file, not a wait for ever."""
    with Path(os.devnull).open("rb") as void:
        os.dup2(void.fileno(), 0)


def _end(status: int) -> NoReturn:
    """End the process without taking the interpreter apart, which costs seconds with torch loaded and may crash."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main())
