"""Warm start with the real lmms-eval: the same results and the same process as a cold start's."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from runner_process import PROBE, REPOSITORY, request_document
from warm_box import until

from worker.evaluation_environment import runner_environ
from worker.part_run import RUNNER
from worker.process_tree import processes_of
from worker.runner_process import RunnerEvent, RunnerProcess
from worker.warm_start import WarmStart

pytestmark = pytest.mark.lmms_eval

TASKS = ["probe_sum", "probe_sampled"]
#: What may differ between two runs of the same request.
TIMES = {"seconds"}


@dataclass
class Run:
    """What one run left behind."""

    folder: Path
    events: list[dict[str, Any]]
    lines: list[str]
    code: int

    @property
    def facts(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "facts.json").read_text()))

    def phase_begins(self) -> list[tuple[str | None, str]]:
        return [(event["task"], event["phase"]) for event in self.events if event["event"] == "phase"]

    def result(self, task: str) -> dict[str, Any]:
        found = json.loads((self.folder / "output" / "tasks" / f"{task}.json").read_text())
        return {name: value for name, value in found.items() if name not in TIMES}

    def scores(self, task: str) -> list[dict[str, Any]]:
        return list(pq.read_table(self.folder / "output" / "samples" / f"{task}.scores.parquet").to_pylist())


class Slot:
    """A slot's warm start on this Python, with the probes installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warm = WarmStart(2.0)
        self.environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
        self._count = 0

    def run(self, warm: bool, adapter: str = "warm_probe", **changes: Any) -> Run:
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        mark = f"real{os.getpid()}-{self._count}#1"
        environ = runner_environ(self.environ, mark=mark, gpus=(), secrets={})
        environ["PYTHONPATH"] = os.pathsep.join(map(str, (REPOSITORY, PROBE, PROBE.with_name("warm_probe"))))
        command = [sys.executable, *RUNNER]
        if warm:
            command = self.warm.command(command, adapter, environ, ())
        # Folders are named in the results' fingerprints nowhere, and in the facts not at all.
        given = {"model": adapter, "model_args": f"facts={folder}/facts.json", "tasks": TASKS, **changes}
        process = RunnerProcess(command, environ, folder, mark, 2.0)
        process.start(request_document(folder, **given))
        events, lines = [], []
        deadline = time.monotonic() + 240
        while not process.ended:
            assert time.monotonic() < deadline, "the run does not end"
            for item in process.read(0.2):
                if isinstance(item, RunnerEvent):
                    events.append(item.data)
                else:
                    lines.append(item.text)
        process.close()
        assert processes_of(mark) == [], "a process was left over"
        return Run(folder, events, lines, process.code)

    def serve(self) -> None:
        self.warm.tend()
        until(self.warm.serving, 120, "the fork server")


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    slot = Slot(tmp_path_factory.mktemp("warm"))
    yield slot
    slot.warm.stop()


@pytest.fixture(scope="module")
def cold(slot: Slot) -> Run:
    """The first run, which asks for the server and waits until it is there."""
    run = slot.run(warm=True)
    slot.serve()
    return run


@pytest.fixture(scope="module")
def warm(slot: Slot, cold: Run) -> Run:
    return slot.run(warm=True)


def test_the_second_run_is_a_copy(cold: Run, warm: Run) -> None:
    assert cold.code == warm.code == 0
    assert "kept" in cold.facts["parent"] and "adopted" in warm.facts["parent"]
    assert not any("started cold" in line for line in warm.lines)


@pytest.mark.parametrize("task", TASKS)
def test_results_and_scores_are_those_of_a_cold_start(cold: Run, warm: Run, task: str) -> None:
    assert warm.result(task) == cold.result(task)
    assert warm.scores(task) == cold.scores(task)
    assert warm.phase_begins() == cold.phase_begins()


def test_generators_threads_and_variables_are_those_of_a_cold_start(cold: Run, warm: Run) -> None:
    for fact in cold.facts:
        if fact != "parent":
            assert warm.facts[fact] == cold.facts[fact], fact


def test_a_task_of_lmms_eval_s_own_index_is_found(slot: Slot, warm: Run) -> None:
    run = slot.run(warm=True, tasks=["mmmu_val", "no_such_task"])
    assert run.code == 1
    messages = {event["task"]: event["message"] for event in run.events if event["event"] == "task-failed"}
    assert "lmms-eval has no task, group or tag called 'no_such_task'" in messages["no_such_task"]
    assert "no task, group or tag" not in messages["mmmu_val"], "it is there, but its data is not"


def test_an_adapter_that_starts_a_thread_is_imported_by_each_run(tmp_path: Path) -> None:
    slot = Slot(tmp_path)
    slot.environ["HF_WARM_PROBE_THREAD"] = "1"
    try:
        slot.run(warm=True, tasks=TASKS[:1])
        slot.serve()
        run = slot.run(warm=True, tasks=TASKS[:1])
        assert run.code == 0
        assert "adopted" in run.facts["parent"], "what is left of the imports must still be warm"
        assert len(run.facts["threads"]) > 1
    finally:
        slot.warm.stop()
