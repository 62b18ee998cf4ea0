"""Killed at every phase, again and again: in the end all answers are there, and little was asked twice."""

from __future__ import annotations

import json
import math
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runner_process import Outcome, Runner, Watcher

pytestmark = pytest.mark.lmms_eval

DOCUMENTS = 60
#: Kills in the middle of generating, as the number of requests that the attempt may ask before.
WHILE_GENERATING = (17, 25)
PHASES = ("dataset", "model_load", "generate", *WHILE_GENERATING, "score", "write")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts runner processes that share one data cache."""
    return Runner(tmp_path_factory.mktemp("hub"))


def _kill_in(phase: str) -> Watcher:
    def kill(event: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "phase" and event["task"] is not None and event["phase"] == phase:
            process.send_signal(signal.SIGKILL)

    return kill


@pytest.mark.parametrize(("task", "repeats"), [("probe_sum", 1), ("probe_sampled", 2)])
def test_no_more_than_a_chunk_is_asked_again_for_each_kill(
    task: str, repeats: int, runner: Runner, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    environment = {"PROBE_JOURNAL": str(journal), "PROBE_ANSWERS_ALL": "1"}
    for phase in PHASES:
        dying = {"PROBE_KILL_AFTER": str(phase)} if isinstance(phase, int) else {}
        watcher = _kill_in(phase) if isinstance(phase, str) else None
        killed = runner.run(tmp_path, {**environment, **dying}, watcher, tasks=[task])
        assert killed.status == -signal.SIGKILL, (phase, killed.events)
        assert killed.of("task-finished") == []
    finished = runner.run(tmp_path, environment, tasks=[task], attempt=len(PHASES) + 1)
    assert finished.status == 0
    asked = Counter((doc_id, idx) for _, doc_id, idx, _ in map(json.loads, journal.read_text().splitlines()))
    requests = DOCUMENTS * repeats
    assert len(asked) == DOCUMENTS
    chunk = math.floor(requests * 0.05)
    kills = len(WHILE_GENERATING) + 1  # the one at the begin of the phase may come late
    assert 0 < asked.total() - requests <= kills * chunk, asked
    assert _answers(finished, task) == requests


def _answers(outcome: Outcome, task: str) -> int:
    return sum(len(row["responses"]) for row in outcome.samples(task))


def test_request_to_stop_loses_no_more_than_a_chunk(runner: Runner, tmp_path: Path) -> None:
    """SIGTERM ends the process at once; what was answered before the running chunk is on disk already."""
    journals = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]

    def terminate(event: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "progress" and event["phase"] == "generate" and event["done"] >= DOCUMENTS / 2:
            process.terminate()

    first = runner.run(tmp_path, {"PROBE_JOURNAL": str(journals[0])}, terminate, model_args="delay=0.05")
    assert first.status == -signal.SIGTERM
    runner.run(tmp_path, {"PROBE_JOURNAL": str(journals[1])}, model_args="delay=0.05")
    lines = [len(journal.read_text().splitlines()) for journal in journals]
    assert DOCUMENTS <= sum(lines) <= DOCUMENTS + 3 + 1  # a chunk, and the answer that is empty
